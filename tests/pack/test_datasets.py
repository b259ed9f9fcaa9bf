import io
import struct
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from mae.base.errors import UserError
from mae.data.indexing import build_manifest
from mae.data.shard_reader import ShardReader
from mae.pack.datasets import list_dataset
from mae.pack.listing import PackRequest
from mae.pack.pack import pack
from mae.pack.shard_plan import PackOptions


@pytest.fixture
def fake_data(monkeypatch):
    """torchvision.datasets.FakeData with 12 small images instead of 1000 large ones."""
    defaults = (12, (3, 20, 24), 4, None, None, 0)
    monkeypatch.setattr(datasets.FakeData.__init__, "__defaults__", defaults)
    return datasets.FakeData()


@pytest.fixture
def mnist(tmp_path):
    """The files of MNIST, of 5 and 3 images of noise; returns the arrays of the first."""
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split, count in (("t10k", 3), ("train", 5)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8)
        header = struct.pack(">4i", 0x803, count, 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">2i", 0x801, count)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return images


def refused(*arguments, **options):
    with pytest.raises(UserError) as error:
        list_dataset(*arguments, **options)
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize("workers", [0, 2])
def test_images_in_memory_are_packed_as_png(fake_data, tmp_path, workers):
    packed = pack(PackRequest(("torchvision:FakeData",)), tmp_path / "out", workers=workers)
    assert packed.splits == {"train": 12} and packed.classes == ()
    manifest = build_manifest([f"{tmp_path}/out/*.tar"])
    rows = (tmp_path / "out" / "sources.tsv").read_text().splitlines()[1:]
    numbers = {key: int(name.split()[-1]) for key, name in (row.split("\t") for row in rows)}
    for sample in range(12):
        image, label = fake_data[numbers[manifest.key(sample)]]
        stored = Image.open(io.BytesIO(ShardReader(manifest).read(sample)))
        assert stored.format == "PNG" and np.array_equal(np.array(stored), np.array(image))
        assert manifest.label[sample] == label


def test_training_and_test_sets_become_splits(mnist, tmp_path):
    out = tmp_path / "out"
    request = PackRequest(("torchvision:MNIST",), root=tmp_path / "data")
    packed = pack(request, out, PackOptions(val_fraction=0.4))
    assert packed.splits == {"train": 3, "test": 3, "val": 2}
    assert packed.classes[0] == "0 - zero" and packed.channels == {1: 8}
    manifest = build_manifest([f"{out}/train-*.tar", f"{out}/val-*.tar"])
    for sample in range(5):
        stored = Image.open(io.BytesIO(ShardReader(manifest).read(sample)))
        assert np.array_equal(np.array(stored), mnist[manifest.label[sample]])
    assert sorted(build_manifest([f"{out}/test-*.tar"]).label) == [0, 1, 2]


def test_labels_are_ignored_on_request(mnist, tmp_path):
    listing = list_dataset("MNIST", tmp_path / "data", labels=False)
    assert listing.classes == () and {source.label for source in listing.sources} == {None}


@pytest.fixture
def image_folder(tmp_path, make_image):
    for number, name in enumerate(("cat/a.jpg", "cat/b.png", "dog/c.jpg")):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(number)).save(path)
    return tmp_path / "data"


def test_files_on_disk_are_packed_unchanged(image_folder):
    listing = list_dataset("ImageFolder", image_folder)
    assert listing.classes == ("cat", "dog")
    assert [source.extension for source in listing.sources] == ["jpg", "png", "jpg"]
    for source in listing.sources:
        path = (
            image_folder / listing.classes[source.label or 0] / source.reference.rpartition("/")[2]
        )
        assert listing.reader.read(source.reference) == path.read_bytes()


def test_data_set_with_a_split_argument(image_folder, monkeypatch):
    """The constructor rejects unknown splits, as those of torchvision do."""

    class Splits(datasets.ImageFolder):
        def __init__(self, root, split="train", download=False):
            if split not in ("train", "val"):
                raise ValueError(f"Unknown value '{split}' for argument split. Valid values are …")
            super().__init__(root)
            self.samples = self.samples[:2] if split == "train" else self.samples[2:]

    monkeypatch.setattr(datasets, "Splits", Splits, raising=False)
    monkeypatch.setattr(datasets, "__all__", (*datasets.__all__, "Splits"))
    assert list_dataset("Splits", image_folder).splits == (("train", 2), ("val", 1))
    with pytest.raises(UserError, match="--val: torchvision:Splits has its own validation images"):
        request = PackRequest(("torchvision:Splits",), root=image_folder)
        pack(request, image_folder / "out", PackOptions(val_fraction=0.5))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CIFAR11", "no such data set, did you mean CIFAR10?"),
        ("cifar10", "no such data set, did you mean CIFAR10?"),
        ("Qqqqq", "no such data set, see torchvision.datasets"),
        ("VisionDataset", "no such data set"),
        ("utils", "no such data set"),
        ("LFWPairs", "has no known training split"),
        ("EMNIST", "cannot be packed by its name alone: missing 1 required"),
        ("Flickr8k", "cannot be packed by its name alone: missing 1 required"),
        ("ImageNet", "cannot be loaded from "),
    ],
)
def test_unusable_data_set_is_refused(tmp_path, name, message):
    assert refused(name, tmp_path).startswith(f"torchvision:{name}: {message}")


def test_failed_download_is_one_line(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    line = refused("CIFAR10", tmp_path)
    assert line.startswith(
        f"torchvision:CIFAR10: cannot be loaded from {tmp_path}: <urlopen error Name"
    )
    line = refused("MNIST", tmp_path)
    assert "Error downloading train-images-idx3-ubyte.gz" in line and "<urlopen error Name" in line


def test_required_labels_must_exist(fake_data, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.FakeData, "targets", [-1] * 12, raising=False)
    assert "its train images have no class numbers" in refused("FakeData", tmp_path, labels=True)
