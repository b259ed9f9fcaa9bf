import io
import os
import pickle
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae.base.errors import SampleError, StorageError, UserError
from mae.base.hashing import Stream, fold
from mae.config.sections import DataConfig
from mae.data import images as images_module
from mae.data.batch import Batch, BatchSharding, Crops
from mae.data.device_crop import resize_crops
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.order import Order, sample_at
from mae.data.transform import center_view
from mae.data.views import CentredViews, CropViews, EncodedViews, PixelViews, build_training_views
from mae.data.worker_loader import load_in_workers
from mae.decoding.decode import decode

SIZE = (16, 24)
SEED = 5
SAMPLES = 20


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, make_shards):
    return build_manifest([make_shards(tmp_path_factory.mktemp("shards"), SAMPLES)])


@pytest.fixture
def damaged(tmp_path, make_shards):
    """Twenty samples in three shards; the seventh and the whole second shard are bad."""
    manifest = build_manifest([make_shards(tmp_path, SAMPLES)])
    for sample in BAD:
        with Path(manifest.shards[manifest.shard_of(sample)]).open("r+b") as file:
            file.seek(int(manifest.offset[sample]))
            file.write(bytes(100))
    return manifest


BAD = {6, *range(8, 16)}


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def npy(pixels):
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


def training_views(manifest, channels=3, seed=SEED, order=None, **config):
    return PixelViews(*settings(manifest, channels, seed, order, **config))


def settings(manifest, channels=3, seed=SEED, order=None, **config):
    """Arguments of the views."""
    counts = manifest.dataset_counts()
    order = order or Order(seed, counts, batch_size=12, repeats=config.get("repeats", 1))
    return manifest, order, DataConfig(**config), SIZE, channels


def pixels(batch):
    assert isinstance(batch, Batch) and isinstance(batch.images, torch.Tensor)
    return batch.images


def stream(views, slices, first=0, last=4, workers=0):
    """The batches of one process."""
    return list(load_in_workers(views, slices.micro_batches(first, last), workers))


def by_all_processes(views, processes, accumulation, workers=0):
    """Four global batches of 12, made in parts and put back in order."""
    ranks = [
        stream(views, BatchSharding(12, processes, rank, accumulation), workers=workers)
        for rank in range(processes)
    ]
    return joined(
        rank[step * accumulation + micro]
        for step in range(4)
        for rank in ranks
        for micro in range(accumulation)
    )


def joined(parts):
    images, seeds, samples, labels, bad = zip(*parts, strict=True)
    tensors = map(torch.cat, (images, seeds, samples, labels))
    return Batch(next(tensors), next(tensors), next(tensors), next(tensors), [*chain(*bad)])


def same(one, other):
    return set(one.bad) == set(other.bad) and all(
        torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True)
    )


@pytest.fixture(scope="module")
def expected(manifest):
    """Four global batches of 12, made in one piece by one process."""
    return by_all_processes(training_views(manifest), 1, 1)


def test_a_batch_is_uint8_contiguous_and_whole(manifest):
    (batch,) = stream(training_views(manifest), BatchSharding(12, 1, 0, 1), 0, 1)
    assert batch.images.dtype == torch.uint8 and batch.images.is_contiguous()
    assert batch.images.shape == (12, 3, *SIZE)
    assert batch.seeds.dtype == batch.samples.dtype == torch.int64
    assert batch.seeds.shape == batch.samples.shape == (12,)
    assert batch.bad == []
    assert batch.images.float().std() > 5  # pictures, not blanks


def test_samples_and_seeds_are_those_of_the_order(expected):
    view, sample = sample_at(SEED, SAMPLES, np.arange(48))
    assert expected.samples.tolist() == sample.tolist()
    words = fold(SEED, Stream.OBJECTIVE, view, sample)
    assert expected.seeds.numpy().view(np.uint64).tolist() == words.tolist()
    assert len(expected.seeds.unique()) == 48


def test_a_sample_is_cropped_differently_in_the_next_epoch(expected):
    for sample in range(SAMPLES):
        first, second = torch.nonzero(expected.samples == sample)[:2, 0]
        assert not torch.equal(expected.images[first], expected.images[second])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(manifest, expected, workers):
    assert same(by_all_processes(training_views(manifest), 1, 1, workers), expected)


@pytest.mark.parametrize(
    ("processes", "accumulation"), [(1, 1), (1, 3), (2, 1), (2, 3), (4, 1), (12, 1)]
)
def test_processes_and_accumulation_change_nothing(manifest, expected, processes, accumulation):
    assert same(by_all_processes(training_views(manifest), processes, accumulation), expected)


@pytest.mark.parametrize("mode", ["window", "lanes"])
def test_ranks_workers_and_restarts_change_nothing_in_any_mode(manifest, mode):
    """Two steps by one process, one by two, two by four: as one process alone."""
    counts = manifest.dataset_counts()
    order = Order(SEED, counts, mode=mode, window=1, lanes=4, batch_size=12)
    views = training_views(manifest, order=order)
    alone = joined(stream(views, BatchSharding(12, 1, 0, 1), 0, 5))
    parts = []
    for processes, first, last, workers in [(1, 0, 2, 2), (2, 2, 3, 1), (4, 3, 5, 0)]:
        ranks = [
            stream(views, BatchSharding(12, processes, rank, 1), first, last, workers)
            for rank in range(processes)
        ]
        parts += [rank[step] for step in range(last - first) for rank in ranks]
    assert same(joined(parts), alone)
    assert alone.samples.tolist() == order(np.arange(60)).sample.tolist()


def test_a_restart_goes_on_with_the_very_next_sample(manifest, expected):
    views = training_views(manifest)
    before = stream(views, BatchSharding(12, 1, 0, 1), 0, 1)
    after = [stream(views, BatchSharding(12, 2, r, 1), 1, 4, workers=r) for r in range(2)]
    in_order = before + [rank[step] for step in range(3) for rank in after]
    assert same(joined(in_order), expected)


def test_another_seed_gives_other_views(manifest, expected):
    batch = training_views(manifest, seed=SEED + 1)[range(48)]
    assert isinstance(batch, Batch)
    assert not torch.equal(batch.samples, expected.samples)
    assert len(np.intersect1d(batch.seeds, expected.seeds)) == 0


# Bad samples


def test_bad_images_are_replaced_and_reported(damaged):
    batch = by_all_processes(training_views(damaged), 1, 1)
    assert {sample for sample, _ in batch.bad} == BAD
    for sample, reason in batch.bad:
        shard = damaged.shards[sample // 8]
        assert reason.startswith(f"{shard}: key sample-{sample:05d}: not the bytes that were")
    assert not BAD & set(batch.samples.tolist())
    # Its neighbours take the seventh's place; a whole shard's is taken by all.
    wanted = torch.from_numpy(sample_at(SEED, SAMPLES, np.arange(48)).sample)
    assert set(batch.samples[wanted == 6].tolist()) <= set(range(8))
    assert torch.equal(batch.samples == wanted, ~torch.isin(wanted, torch.tensor([*BAD])))


@pytest.mark.parametrize(
    ("processes", "accumulation", "workers"), [(1, 1, 2), (2, 3, 0), (4, 1, 0), (2, 1, 1)]
)
def test_replacements_are_the_same_on_any_number_of_processes(
    damaged, processes, accumulation, workers
):
    views = training_views(damaged)
    alone = by_all_processes(views, 1, 1)
    assert same(by_all_processes(views, processes, accumulation, workers), alone)


def test_a_replacement_leaves_the_chance_of_its_position_alone(manifest, damaged):
    """The crop and the mask are those that the bad sample would have had."""
    clean, replaced = training_views(manifest)[range(20)], training_views(damaged)[range(20)]
    assert isinstance(clean, Batch) and isinstance(replaced, Batch)
    assert torch.equal(clean.seeds, replaced.seeds)
    good = clean.samples == replaced.samples
    assert good.sum() == SAMPLES - len(BAD)
    assert torch.equal(pixels(clean)[good], pixels(replaced)[good])


def test_the_crop_of_a_replacement_is_that_of_its_position(damaged, monkeypatch):
    keys = []
    fold_of_loader = fold

    def recorded(seed, stream, *values):
        if stream == Stream.VIEW:
            keys.append([np.array(value).tolist() for value in values])
        return fold_of_loader(seed, stream, *values)

    monkeypatch.setattr("mae.data.views.fold", recorded)
    training_views(damaged)[range(20)]
    view, sample = sample_at(SEED, SAMPLES, np.arange(20))
    assert keys == [[view.tolist(), sample.tolist()]]


@pytest.mark.parametrize("workers", [0, 2])
def test_where_all_are_bad_one_is_named(tmp_path, make_tar, workers):
    path = make_tar(tmp_path / "a.tar", [(f"{n}.jpg", b"no image") for n in range(4)])
    views = training_views(build_manifest([str(path)]))
    with pytest.raises(SampleError, match=r"a.tar: key \d: does not decode.*replacements are bad"):
        list(load_in_workers(views, iter([range(2)]), workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_cannot_be_read_is_an_error_after_what_came_before(
    manifest, workers, workers_left
):
    views, seen = training_views(manifest), []
    shard = Path(manifest.shards[1])
    hidden = shard.with_suffix(".hidden")
    shard.rename(hidden)
    try:
        first_gone = next(
            position
            for position in range(SAMPLES)
            if 8 <= views.order(np.array([position])).sample[0] < 16
        )
        with pytest.raises(StorageError) as error:
            for batch in load_in_workers(views, [range(n, n + 1) for n in range(SAMPLES)], workers):
                seen += batch.samples.tolist()
    finally:
        hidden.rename(shard)
    assert not workers_left()
    assert seen == views.order(np.arange(first_gone)).sample.tolist()
    assert str(error.value).startswith(f"{shard}: key sample-000")
    assert "\n" not in str(error.value)


# Several views of an image


def count_decodings(monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(1)
        return decode(*arguments)

    monkeypatch.setattr(images_module, "decode", counted)
    return calls


def test_repeats_are_views_of_one_image_decoded_once(manifest, monkeypatch):
    calls = count_decodings(monkeypatch)
    batch = training_views(manifest, repeats=4)[range(4 * SAMPLES)]
    assert isinstance(batch, Batch)
    assert len(calls) == SAMPLES
    groups = batch.samples.view(SAMPLES, 4)
    assert (groups == groups[:, :1]).all()
    assert groups[:, 0].sort().values.tolist() == list(range(SAMPLES))
    assert len(batch.seeds.unique()) == 4 * SAMPLES
    for views in pixels(batch).view(SAMPLES, 4, -1):
        assert len(views.unique(dim=0)) == 4


@pytest.mark.parametrize(("processes", "accumulation"), [(4, 1), (2, 3), (12, 1)])
def test_groups_of_repeats_may_be_cut_anywhere(damaged, processes, accumulation):
    """Groups of 5 in parts of 3, 2 and 1, with replacements: the stream is the same."""
    views = training_views(damaged, repeats=5)
    alone = by_all_processes(views, 1, 1)
    assert same(by_all_processes(views, processes, accumulation), alone)
    assert alone.bad


def test_epochs_of_one_bad_sample_behind_the_other_are_kept_apart(tmp_path, make_shards):
    """Last of an epoch and first of the next: another replacement, in one batch or in two."""
    manifest = build_manifest([make_shards(tmp_path, 3, shard_size=1)])
    os.truncate(manifest.shards[1], 600)
    samples = Order(SEED, manifest.dataset_counts())(np.arange(300)).sample
    (twice,) = (np.flatnonzero((samples[:-1] == 1) & (samples[1:] == 1)),)
    assert len(twice) > 5
    views = training_views(manifest)
    for position in twice.tolist():
        both = views[range(position, position + 2)]
        apart = [views[range(at, at + 1)] for at in (position, position + 1)]
        assert torch.equal(pixels(both), torch.cat([pixels(one) for one in apart]))


# Other pixels


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({}, PixelViews),
        ({"crop_on_device": True}, CropViews),
        ({"decode_on_device": True}, EncodedViews),
        ({"crop_on_device": True, "decode_on_device": True}, EncodedViews),
    ],
    ids=str,
)
def test_settings_decide_where_crops_are_made(manifest, config, kind):
    assert type(build_training_views(*settings(manifest, **config))) is kind


def test_crops_resized_on_the_device_are_those_of_the_cpu(manifest, expected):
    views = CropViews(*settings(manifest))
    parts = stream(views, BatchSharding(12, 1, 0, 1), workers=2)
    crops = [part.images for part in parts]
    assert all(isinstance(one, Crops) for one in crops)
    images = torch.cat([resize_crops(one, SIZE, "cpu") for one in crops])
    assert images.dtype == torch.uint8 and images.shape == expected.images.shape
    difference = (images.int() - expected.images.int()).abs()
    assert difference.max() <= 1 and difference.float().mean() < 0.05
    assert torch.equal(torch.cat([part.seeds for part in parts]), expected.seeds)
    assert torch.equal(torch.cat([part.samples for part in parts]), expected.samples)


def test_images_of_16_bits_keep_them(tmp_path, make_tar):
    numbers = [1000, 40_000, 65_535]
    shard = make_tar(
        tmp_path / "a.tar",
        [(f"{n}.png", png(np.full((30, 40), n, np.uint16))) for n in numbers],
    )
    manifest = build_manifest([str(shard)])
    arguments = settings(manifest, channels=1, bits=16)
    (on_cpu,) = load_in_workers(PixelViews(*arguments), iter([range(3)]), workers=1)
    (boxes,) = load_in_workers(CropViews(*arguments), iter([range(3)]), workers=1)
    for images in (on_cpu.images, resize_crops(boxes.images, SIZE, "cpu")):
        assert images.dtype == torch.uint16 and images.shape == (3, 1, *SIZE)
        for image, sample in zip(images, on_cpu.samples.tolist(), strict=True):
            assert (image.int() == int(manifest.key(sample))).all()
    assert torch.equal(boxes.samples, on_cpu.samples)


def test_images_of_seven_channels(tmp_path, make_tar):
    values = np.arange(7, dtype=np.uint8) * 30 + 5
    pixels = np.broadcast_to(values, (30, 40, 7))
    shard = make_tar(tmp_path / "a.tar", [(f"{n}.npy", npy(pixels)) for n in range(4)])
    arguments = settings(build_manifest([str(shard)]), channels=7)
    (on_cpu,) = load_in_workers(PixelViews(*arguments), iter([range(4)]), workers=1)
    (boxes,) = load_in_workers(CropViews(*arguments), iter([range(4)]), workers=1)
    for images in (on_cpu.images, resize_crops(boxes.images, SIZE, "cpu")):
        assert images.dtype == torch.uint8 and images.shape == (4, 7, *SIZE)
        assert (images.permute(0, 2, 3, 1) == torch.from_numpy(values)).all()


@pytest.mark.parametrize("extension", ["jpg", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_unlabelled_shards_of_either_kind(tmp_path, make_shards, channels, extension):
    shards = make_shards(tmp_path, 4, labels=False, channels=channels, extension=extension)
    views = training_views(build_manifest([shards]), channels)
    (batch,) = load_in_workers(views, [range(4)], workers=0)
    assert batch.images.shape == (4, channels, *SIZE)


# Processes


def test_one_tar_serves_all_workers(tmp_path, make_shards, monkeypatch):
    (tmp_path / "workers").mkdir()

    def decode_and_record(*arguments):
        (tmp_path / "workers" / str(os.getpid())).touch()
        return decode(*arguments)

    monkeypatch.setattr(images_module, "decode", decode_and_record)
    manifest = build_manifest([make_shards(tmp_path, 8, shard_size=8)])
    assert len(manifest.shards) == 1
    slices = BatchSharding(2, 1, 0, 1).micro_batches(0, 4)
    assert len(list(load_in_workers(training_views(manifest), slices, workers=2))) == 4
    pids = {int(path.name) for path in (tmp_path / "workers").iterdir()}
    assert len(pids) == 2 and os.getpid() not in pids


def test_a_data_set_may_be_sent_to_another_process(manifest, expected):
    views = training_views(manifest)
    assert same(views[range(48)], expected)  # its shards are open now
    assert same(pickle.loads(pickle.dumps(views))[range(48)], expected)


# Evaluation


@pytest.mark.parametrize("workers", [0, 2])
def test_centred_views_come_in_order_of_the_manifest(manifest, workers):
    views = CentredViews(Images(manifest, 3), SIZE, 0.875)
    assert len(views) == SAMPLES
    slices = [range(start, min(start + 8, SAMPLES)) for start in range(0, SAMPLES, 8)]
    images = torch.cat(list(load_in_workers(views, slices, workers)))
    assert images.shape == (SAMPLES, 3, *SIZE) and images.dtype == torch.uint8
    for sample in range(SAMPLES):
        assert torch.equal(images[sample], center_view(views.images[sample], SIZE, 0.875))


def test_centred_views_name_a_bad_image(damaged):
    views = CentredViews(Images(damaged, 3), SIZE, 1.0)
    with pytest.raises(UserError, match=r"key sample-00006: not the bytes"):
        list(load_in_workers(views, iter([range(10)]), workers=1))


def test_real_shards(shared_data, tmp_path):
    manifest = build_manifest([f"{shared_data}/clothing/val-*.tar"], index_dir=tmp_path)
    order = Order(0, manifest.dataset_counts())
    views = PixelViews(manifest, order, DataConfig(), (224, 224), 3)
    (batch,) = load_in_workers(views, [range(8)], workers=0)
    assert batch.images.shape == (8, 3, 224, 224)
    assert batch.images.float().flatten(1).std(dim=1).min() > 5
