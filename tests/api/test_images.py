import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from mae.api.images import FEW, Reader, pixels_of
from mae.base.errors import SampleError, UserError
from mae.config.loading import parse_config
from mae.config.sections import Config, DataConfig
from mae.decoding.decode import decode
from mae.decoding.pixels import BadImage

SIZE = (16, 16)


def reader(**data):
    return Reader(Config(data=DataConfig(**data)), SIZE)


def gray(make_image, dtype=np.uint8):
    image = make_image(3, channels=1).astype(dtype)
    return image * 257 if dtype == np.uint16 else image


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


KINDS = {
    "file's content": png,
    "PIL image": lambda image: image,
    "array": np.asarray,
    "tensor": lambda image: torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "I;16"])
@pytest.mark.parametrize(("channels", "bits"), [(3, 8), (1, 8), (3, 16), (1, 16)])
def test_images_in_memory_are_read_as_files(make_image, kind, mode, channels, bits):
    if mode == "I;16" and bits == 8:
        return  # refused: below
    image = Image.fromarray(make_image(3))
    image = Image.fromarray(gray(make_image, np.uint16)) if mode == "I;16" else image.convert(mode)
    if mode == "1" and kind in ("array", "tensor"):
        image = image.convert("L")  # as its file is read
    found = pixels_of(KINDS[kind](image), DataConfig(in_chans=channels, bits=bits))
    assert torch.equal(found, decode(png(image), "png", channels, bits))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK"])
def test_alpha_and_palettes_of_pil_images(make_image, mode):
    image = Image.fromarray(make_image(3)).convert(mode)
    found = pixels_of(image, DataConfig())
    assert torch.equal(found, pixels_of(image.convert("RGB"), DataConfig()))
    if mode in ("RGBA", "LA"):
        deep = DataConfig(in_chans=len(image.getbands()))
        assert torch.equal(pixels_of(image, deep), torch.from_numpy(np.array(image)).movedim(2, 0))


def test_many_channels_in_any_order():
    array = np.random.default_rng(0).integers(0, 65536, (7, 20, 30), np.uint16)
    data = DataConfig(in_chans=7, bits=16)
    for given in (array, array.transpose(1, 2, 0), torch.from_numpy(array)):
        assert torch.equal(pixels_of(given, data), torch.from_numpy(array))


def test_floats_are_normalised_where_they_are_read():
    array = np.random.default_rng(0).normal(3, 2, (4, 16, 16)).astype(np.float32)
    data = DataConfig(in_chans=4, bits=32, mean=(3, 3, 3, 3), std=(2, 2, 2, 2))
    torch.testing.assert_close(pixels_of(array, data), torch.from_numpy((array - 3) / 2))


WRONG = {
    "floats": (np.zeros((8, 8), np.float64), "float64 values: uint8 or uint16 expected, such as"),
    "integers": (np.zeros((8, 8), np.int64), "int64 values: uint8, uint16 or floats expected"),
    "objects": (np.array([[None]]), "an array of objects"),
    "four channels": (np.zeros((8, 8, 4), np.uint8), "has 4 channels, but data.in_chans is 3"),
    "16 bits": (np.zeros((8, 8), np.uint16), "16 bits a channel, but data.bits is 8"),
    "one axis": (np.zeros(8, np.uint8), r"shape \[8\]"),
    "no pixels": (np.zeros((0, 8, 3), np.uint8), "has no pixels"),
    "a tensor of one axis": (torch.zeros(8, dtype=torch.uint8), r"a tensor of shape \[8\]"),
    "mode F": (Image.new("F", (8, 8)), "an image of floats"),
    "mode I": (Image.new("I", (8, 8), -5), "values beyond 16 bits"),
    "a tuple": ((np.zeros((8, 8), np.uint8), 3), r"a tuple \(of an image and its label"),
    "None": (None, "a NoneType: an image, an array or a path expected"),
    "bytes": (b"no image", "does not decode"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_images(name):
    image, message = WRONG[name]
    with pytest.raises(BadImage, match=message):
        pixels_of(image, DataConfig())


def test_a_cut_off_file_that_is_open(make_image, tmp_path):
    (tmp_path / "cut.png").write_bytes(png(Image.fromarray(make_image(1)))[:300])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(BadImage) as raised:
        pixels_of(image, DataConfig())
    assert "cut.png: does not decode" in str(raised.value)


def views(found):
    batches = list(found)
    numbers = [number for batch in batches for number in batch.numbers]
    return torch.cat([batch.views for batch in batches if batch.views is not None]), numbers


@pytest.fixture
def folder(make_image, tmp_path):
    """Five images, in folders; the second by its path, 2.png, is damaged."""
    for number in range(5):
        path = tmp_path / "photos" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(Image.fromarray(make_image(number))))
    (tmp_path / "photos/0/2.png").write_bytes(b"damaged")
    return tmp_path / "photos"


def test_folders_lists_and_iterators(folder):
    paths = sorted(folder.rglob("*.png"))
    assert [path.stem for path in paths] == ["0", "2", "4", "1", "3"]
    found, numbers = views(reader().batches(folder, 2))
    assert numbers == [0, 2, 3, 4] and found.shape == (4, 3, *SIZE)
    listed = [str(path) for path in paths]
    for given in (paths, listed, iter(paths), str(folder), f"{folder}/*/*.png"):
        again, same = views(reader().batches(given, 3, workers=0))
        assert torch.equal(again, found) and same == numbers
    opened = [Image.open(path) for path in paths if path.stem != "2"]
    assert torch.equal(views(reader().batches(opened, 3))[0], found)
    stacked = np.stack([np.asarray(one) for one in opened])
    for image in opened:
        image.close()
    for given in (stacked, torch.from_numpy(stacked).movedim(3, 1)):
        assert torch.equal(views(reader().batches(given, 3))[0], found)
    alone, _ = views(reader().batches(paths[0], 3))
    assert torch.equal(alone, found[:1])


def test_bad_images_are_named(folder, make_image):
    (batch,) = reader().batches(folder, 8)
    ((number, reason),) = batch.bad
    assert number == 1 and "2.png" in reason
    (batch,) = reader().batches([make_image(0), make_image(1)[..., :2]], 8)
    assert batch.bad == [(1, "images[1]: has 2 channels, but data.in_chans is 3")]
    (batch,) = reader().batches([folder / "0/0.png", b"x"], 8)
    assert [one.sample for one in batch.bad] == [1]
    with pytest.raises(UserError, match=r"nosuch\.png: cannot be read"):
        list(reader().batches([folder / "0/0.png", folder / "nosuch.png"], 8))


def test_no_more_than_a_batch_is_read_ahead(make_image):
    read = []

    def images():
        for number in range(7):
            read.append(number)
            yield make_image(number)

    batches = reader().batches(images(), 2)
    for done in (2, 4, 6, 7):
        next(batches)
        assert len(read) == done
    assert list(batches) == []


def test_a_data_set_of_torch(make_image):
    class Images(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return make_image(index)

    found, numbers = views(reader().batches(Images(), 2))
    assert numbers == [0, 1, 2] and found.dtype == torch.uint8


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((5, 8, 8), np.uint8), r"one array of shape \[5, 8, 8\]"),
        (torch.zeros(3, 8, 8), "one array of shape"),
        (5, "images: int: images expected"),
        ("nosuch-*.tar", "nosuch"),
        ("nosuch/photos", "nosuch/photos"),
        (["a.tar", "nosuch.tar"], r"a\.tar"),
        ("nosuch*.png", r"nosuch\*\.png: no such files"),
        ("nosuch.png", r"nosuch\.png: no such file"),
    ],
)
def test_wrong_sources(images, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        list(reader().batches(images, 4))


def test_a_folder_without_images(tmp_path):
    with pytest.raises(UserError, match="no images in this folder"):
        list(reader().batches(tmp_path, 4))


def test_no_images():
    assert list(reader().batches([], 4)) == []


def test_views_that_are_made_already(make_image):
    view = torch.randn(3, *SIZE)
    assert torch.equal(reader().view(view), view)
    with pytest.raises(SampleError, match=r"a tensor of floats of shape \[3, 8, 8\]"):
        reader().view(torch.zeros(3, 8, 8))
    with pytest.raises(UserError, match="are mixed"):
        list(reader().batches([view, make_image(0)], 4))


def test_shards_are_read_in_their_order(shards):
    found, numbers = views(reader().batches(shards, 20))
    assert numbers == list(range(52)) and found.shape == (52, 3, *SIZE)
    listed = sorted(map(str, Path(shards).parent.glob("*.tar")))
    assert torch.equal(views(reader().batches(listed, 20, workers=2))[0], found)
    assert len(found) < FEW


def test_native_crops_need_their_size(make_image):
    small = Reader(
        parse_config({"objective": "noise2void", "data": {"img_size": 64}}, {}), (64, 64)
    )
    with pytest.raises(SampleError, match="24 x 32 pixels are smaller than crops of 64 x 64"):
        small.view(make_image(0))
