import os
import pickle
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from mae.config import DataConfig
from mae.data import loader
from mae.data.decode import decode
from mae.data.loader import Batch, CentredViews, Images, Slices, TrainingViews, batches
from mae.data.manifest import build_manifest
from mae.data.order import sample_at
from mae.data.transform import center_view
from mae.errors import SampleError
from mae.hashing import Stream, fold

SIZE = (16, 24)
SEED = 5
SAMPLES = 20


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, make_shards):
    return build_manifest([make_shards(tmp_path_factory.mktemp("shards"), SAMPLES)])


@pytest.fixture
def damaged(tmp_path, make_shards):
    """Ten samples, the seventh (in tar order) with its JPEG header gone."""
    manifest = build_manifest([make_shards(tmp_path, 10)])
    with manifest.shards[0].open("r+b") as file:
        file.seek(int(manifest.offset[6]))
        file.write(bytes(100))
    return manifest


def training_views(manifest, channels=3):
    return TrainingViews(manifest, DataConfig(), SEED, SIZE, channels)


def stream(manifest, slices, first=0, last=4, workers=0):
    """The batches of one process."""
    return list(batches(training_views(manifest), slices.micro_batches(first, last), workers))


def joined(parts):
    return Batch(*map(torch.cat, zip(*parts, strict=True)))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def expected(manifest):
    """Four global batches of 12, made in one piece by one process."""
    return joined(stream(manifest, Slices(12, 1, 0, 1)))


def test_a_batch_is_uint8_contiguous_and_whole(manifest):
    (batch,) = stream(manifest, Slices(12, 1, 0, 1), 0, 1)
    assert batch.images.dtype == torch.uint8 and batch.images.is_contiguous()
    assert batch.images.shape == (12, 3, *SIZE)
    assert batch.seeds.dtype == batch.samples.dtype == torch.int64
    assert batch.seeds.shape == batch.samples.shape == (12,)
    assert batch.images.float().std() > 5  # pictures, not blanks


def test_samples_and_seeds_are_those_of_the_order(expected):
    epoch, sample = sample_at(SEED, SAMPLES, np.arange(48))
    assert expected.samples.tolist() == sample.tolist()
    words = fold(SEED, Stream.OBJECTIVE, epoch, sample)
    assert expected.seeds.numpy().view(np.uint64).tolist() == words.tolist()
    assert len(expected.seeds.unique()) == 48


def test_a_sample_looks_different_in_the_next_epoch(expected):
    for sample in range(SAMPLES):
        first, second = torch.nonzero(expected.samples == sample)[:2, 0]
        assert not torch.equal(expected.images[first], expected.images[second])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(manifest, expected, workers):
    assert same(joined(stream(manifest, Slices(12, 1, 0, 1), workers=workers)), expected)


@pytest.mark.parametrize(
    ("processes", "accumulation"), [(1, 1), (1, 3), (2, 1), (2, 3), (4, 1), (12, 1)]
)
def test_processes_and_accumulation_change_nothing(manifest, expected, processes, accumulation):
    ranks = [stream(manifest, Slices(12, processes, r, accumulation)) for r in range(processes)]
    in_order = [
        rank[step * accumulation + micro]
        for step in range(4)
        for rank in ranks
        for micro in range(accumulation)
    ]
    assert same(joined(in_order), expected)


def test_a_restart_goes_on_with_the_very_next_sample(manifest, expected):
    before = stream(manifest, Slices(12, 1, 0, 1), 0, 1)
    after = [stream(manifest, Slices(12, 2, r, 1), 1, 4, workers=r) for r in range(2)]
    in_order = before + [rank[step] for step in range(3) for rank in after]
    assert same(joined(in_order), expected)


def test_another_seed_gives_other_views(manifest, expected):
    views = TrainingViews(manifest, DataConfig(), SEED + 1, SIZE, 3)
    batch = views[range(48)]
    assert isinstance(batch, Batch)
    assert not torch.equal(batch.samples, expected.samples)
    assert len(np.intersect1d(batch.seeds, expected.seeds)) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_named_with_shard_and_key(damaged, workers):
    slices = Slices(2, 1, 0, 1).micro_batches(0, 5)
    got = []
    with pytest.raises(SampleError) as error:
        got += batches(training_views(damaged), slices, workers)
    assert str(error.value).startswith(f"{damaged.shards[0]}: key sample-00006: does not decode: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_before_the_bad_one_are_delivered(damaged, workers):
    bad = sample_at(SEED, 10, np.arange(10)).sample.tolist().index(6)
    slices = Slices(1, 1, 0, 1).micro_batches(0, 10)
    seen = []
    with pytest.raises(SampleError):
        for batch in batches(training_views(damaged), slices, workers):
            seen += batch.samples.tolist()
    assert seen == sample_at(SEED, 10, np.arange(bad)).sample.tolist()


def test_a_shard_cut_short_while_in_use_is_named(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path, 4)])
    os.truncate(manifest.shards[0], int(manifest.offset[3]))
    with pytest.raises(
        SampleError, match=r"key sample-00003: 0 of .* the shard changed while in use"
    ):
        list(batches(training_views(manifest), [range(4)], workers=1))


@pytest.mark.parametrize("extension", ["jpg", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_unlabelled_shards_of_either_kind(tmp_path, make_shards, channels, extension):
    shards = make_shards(tmp_path, 4, labels=False, channels=channels, extension=extension)
    (batch,) = batches(training_views(build_manifest([shards]), channels), [range(4)], workers=0)
    assert batch.images.shape == (4, channels, *SIZE)


def test_a_message_names_impossible_channels(manifest):
    with pytest.raises(
        SampleError, match=r"key sample-.*: JPEG and PNG have 1 or 3 channels, not 4"
    ):
        list(batches(training_views(manifest, channels=4), [range(2)], workers=0))


def test_one_tar_feeds_all_workers(tmp_path, make_shards, monkeypatch):
    (tmp_path / "workers").mkdir()

    def decode_and_tell(*arguments):
        (tmp_path / "workers" / str(os.getpid())).touch()
        return decode(*arguments)

    monkeypatch.setattr(loader, "decode", decode_and_tell)
    manifest = build_manifest([make_shards(tmp_path, 8, shard_size=8)])
    assert len(manifest.shards) == 1
    slices = Slices(2, 1, 0, 1).micro_batches(0, 4)
    assert len(list(batches(training_views(manifest), slices, workers=2))) == 4
    pids = {int(path.name) for path in (tmp_path / "workers").iterdir()}
    assert len(pids) == 2 and os.getpid() not in pids


class Handlers(Dataset):
    """Whether the process that reads leaves interrupts to others."""

    def __getitem__(self, index):
        return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_workers_leave_interrupts_to_the_training_process():
    assert list(batches(Handlers(), [range(1)] * 2, workers=2)) == [True, True]


def test_a_data_set_may_be_sent_to_another_process(manifest, expected):
    views = training_views(manifest)
    assert same(views[range(48)], expected)  # its shards are open now
    assert same(pickle.loads(pickle.dumps(views))[range(48)], expected)


def test_images_are_as_stored(manifest, make_image):
    image = Images(manifest, 3)[11]
    assert image.shape == (3, 24, 32)
    assert (image.permute(1, 2, 0).numpy().astype(int) - make_image(11)).std() < 5


@pytest.mark.parametrize("workers", [0, 2])
def test_centred_views_come_in_order_of_the_manifest(manifest, workers):
    views = CentredViews(manifest, SIZE, 3, 0.875)
    assert len(views) == SAMPLES
    slices = [range(start, min(start + 8, SAMPLES)) for start in range(0, SAMPLES, 8)]
    images = torch.cat(list(batches(views, slices, workers)))
    assert images.shape == (SAMPLES, 3, *SIZE) and images.dtype == torch.uint8
    for sample in range(SAMPLES):
        assert torch.equal(images[sample], center_view(views.images[sample], SIZE, 0.875))


def test_centred_views_name_a_bad_image(damaged):
    with pytest.raises(SampleError, match=r"key sample-00006: does not decode"):
        list(batches(CentredViews(damaged, SIZE, 3, 1.0), [range(10)], workers=1))


def test_real_shards(shared_data, tmp_path):
    manifest = build_manifest([f"{shared_data}/clothing/val-*.tar"], index_dir=tmp_path)
    views = TrainingViews(manifest, DataConfig(), 0, (224, 224), 3)
    (batch,) = batches(views, [range(8)], workers=0)
    assert batch.images.shape == (8, 3, 224, 224)
    assert batch.images.float().flatten(1).std(dim=1).min() > 5
