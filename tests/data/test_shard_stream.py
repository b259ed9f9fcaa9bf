import io
import itertools
import json
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

import mae
from mae.base.errors import RunFailed, StorageError, UserError
from mae.config.sections import DataConfig
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.order import Order
from mae.data.shard_stream import ShardStream
from mae.data.transform import center_view
from mae.data.views import PixelViews
from tests.servers import body, web_server

SAMPLES = 50
EXTRA: dict[str, dict[str, Any]] = {
    "global": {},
    "sequential": {},
    "window": {"window": 2},
    "lanes": {"window": 1, "lanes": 4, "batch_size": 8},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    """Fifty samples in seven shards."""
    return make_shards(tmp_path_factory.mktemp("stream"), SAMPLES)


def stream(shards, batch_size=8, **settings):
    arguments: dict[str, Any] = {"workers": 0, "seed": 3, **settings}
    return ShardStream(shards, batch_size, **arguments)


def take(stream, count):
    return list(itertools.islice(stream, count))


def samples(batches):
    return [number for batch in batches for number in batch.samples.flatten().tolist()]


def the_order(manifest, order, **extra: Any):
    return Order(3, manifest.dataset_counts(), mode=cast(Any, order), **extra)


def in_order(manifest, count, order="global", **extra):
    """The samples of the first positions, from the order itself."""
    return the_order(manifest, order, **extra)(np.arange(count)).sample.tolist()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("order", EXTRA)
def test_batches_of_all_ranks_are_those_of_the_order(shards, order, workers):
    ranks = [
        stream(
            *(shards,), **EXTRA[order], order=order, img_size=16, workers=workers, rank=rank,
            world_size=2,
        )
        for rank in range(2)
    ]  # fmt: skip
    rows = [take(rank, 20) for rank in ranks]
    batches = [batch for step in zip(*rows, strict=True) for batch in step]
    manifest = ranks[0].manifest
    extra = {"batch_size": 8, **EXTRA[order]}
    assert samples(batches) == in_order(manifest, 160, order, **extra)
    views = PixelViews(
        manifest,
        the_order(manifest, order, **extra),
        DataConfig(),
        (16, 16),
        3,
    )
    expected = views.batch(range(160))
    assert torch.equal(torch.cat([batch.images for batch in batches]), expected.images)
    assert torch.equal(torch.cat([batch.seeds for batch in batches]), expected.seeds)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), expected.labels)
    assert ranks[0].state_dict() == ranks[1].state_dict()
    assert ranks[0].position == 160 and ranks[0].epoch == 3.2


def test_every_sample_exactly_once_in_order_for_evaluation(shards):
    source = stream(shards, None, order="sequential", epochs=1, last="cut", decode=False)
    assert samples(source) == list(range(SAMPLES)) and len(source) == SAMPLES
    ranks = [
        stream(shards, 12, order="sequential", epochs=1, last="cut", rank=rank, world_size=3)
        for rank in range(3)
    ]
    rows = [list(rank) for rank in ranks]
    assert sorted(samples(itertools.chain(*rows))) == list(range(SAMPLES))
    assert [len(own) for own in rows] == [len(rank) for rank in ranks] == [5, 4, 4]
    assert {rank.position for rank in ranks} == {SAMPLES}
    assert [list(rank) for rank in ranks] == [[], [], []]  # at its end


def test_a_whole_last_batch_runs_into_the_next_epoch(shards):
    source = stream(shards, 8, epochs=1, decode=False)
    assert samples(source) == in_order(source.manifest, 56) and len(source) == 7
    assert source.position == 56 and list(source) == []


def test_single_samples(shards):
    source = stream(shards, None, img_size=16)
    first = next(iter(source))
    assert first.images.shape == (3, 16, 16) and first.samples.shape == first.labels.shape == ()
    assert source.keys(first) == [source.manifest.key(int(first.samples))]
    assert source.position == 1
    rows = [
        take(stream(shards, None, decode=False, rank=rank, world_size=3), 70) for rank in range(3)
    ]
    dealt = samples(itertools.chain(*zip(*rows, strict=True)))
    assert dealt == in_order(source.manifest, 210)


def test_files_images_and_transforms(shards):
    manifest = build_manifest([shards])
    images = Images(manifest, 3)
    (files,) = take(stream(shards, decode=False), 1)
    (whole,) = take(stream(shards), 1)
    for number, file, image in zip(samples([files]), files.images, whole.images, strict=True):
        assert file == images.reader.read(number) and torch.equal(image, images[number])

    def opened(data):
        with Image.open(io.BytesIO(data)) as image:
            return torch.tensor(image.size), random.random()

    (own,) = take(stream(shards, decode=False, transform=opened), 1)
    assert own.images[0].tolist() == [[32, 24]] * 8 and own.images[1].shape == (8,)
    (again,) = take(stream(shards, decode=False, transform=opened, workers=1), 1)
    assert torch.equal(own.images[1], again.images[1])
    (kept,) = take(stream(shards, transform=lambda image: image.shape, collate=list), 1)
    assert [*map(tuple, kept.images)] == [(3, 24, 32)] * 8
    centred = stream(shards, transform=lambda image: center_view(image, (16, 16), None))
    assert take(centred, 1)[0].images.shape == (8, 3, 16, 16)
    (single,) = take(stream(shards, None, decode=False, transform=len), 1)
    assert single.images == len(files.images[0])


def test_repeats_and_sixteen_bits(tmp_path, make_shards):
    folder = make_shards(tmp_path, 6, channels=1, extension="png")
    source = stream(folder, img_size=8, repeats=2, bits=16, in_chans=1)
    (batch,) = take(source, 1)
    assert batch.images.dtype == torch.uint16 and batch.images.shape == (8, 1, 8, 8)
    assert samples([batch])[::2] == samples([batch])[1::2]
    assert source.epoch_length == 12


def test_a_mixture_by_weight(shards, tmp_path, make_shards):
    other = make_shards(tmp_path, 5)
    source = stream({shards: 3, other: 1}, 1000, decode=False)
    (batch,) = take(source, 1)
    assert (batch.samples >= SAMPLES).sum() == 250
    with pytest.raises(UserError, match=r"other settings: weights \[3.0, 1.0\] → \[1.0, 1.0\]"):
        stream({shards: 1, other: 1}, 1000, decode=False).load_state_dict(source.state_dict())


# Resuming


@effort(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.tuples(st.sampled_from([1, 2, 4]), st.integers(0, 9)), min_size=1, max_size=4
    ),
    order=st.sampled_from([*EXTRA]),
    single=st.booleans(),
)
def test_any_stops_with_any_ranks_give_the_whole_sequence(shards, parts, order, single):
    settings = {"order": order, **EXTRA[order], "decode": False}
    settings |= {"batch_size": None} if single and order != "lanes" else {}
    state, seen = None, []
    for world, count in parts:
        ranks = [stream(shards, **settings, rank=rank, world_size=world) for rank in range(world)]
        for rank in ranks:
            if state:
                rank.load_state_dict(json.loads(state))
        rows = [take(rank, count) for rank in ranks]
        seen += samples(itertools.chain(*zip(*rows, strict=True)))
        assert len({json.dumps(rank.state_dict()) for rank in ranks}) == 1
        state = json.dumps(ranks[0].state_dict())
    extra = {"batch_size": 8, **EXTRA[order]}
    assert seen == in_order(build_manifest([shards]), len(seen), order, **extra)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_state_counts_what_was_received_not_what_was_prefetched(shards, workers):
    before = stream(shards, img_size=16, workers=workers)
    states = [before.state_dict()["position"] for _ in itertools.islice(before, 9)]
    assert states == list(range(8, 80, 8))


def test_another_number_of_workers_and_a_smaller_batch(shards):
    one = stream(shards, img_size=16, workers=2)
    take(one, 3)
    other = stream(shards, 2, img_size=16, workers=1)
    other.load_state_dict(one.state_dict())
    rest = torch.cat([batch.images for batch in take(other, 4)])
    assert torch.equal(rest, next(iter(one)).images)


def test_a_loop_that_breaks_goes_on_with_the_next_batch(shards, workers_left):
    source, seen = stream(shards, decode=False, workers=1), []
    for _ in range(3):
        for batch in source:
            seen += samples([batch])
            if len(seen) % 16 == 0:
                break
    assert seen == in_order(source.manifest, 48)
    assert not workers_left()


def test_two_loops_at_once_are_refused(shards):
    source = stream(shards, decode=False)
    loop = iter(source)
    next(loop)
    take(source, 1)
    with pytest.raises(UserError, match="one loop at a time"):
        next(loop)
    loop = iter(source)
    next(loop)
    source.load_state_dict({**source.state_dict(), "position": 0})
    with pytest.raises(UserError, match="a new one after load_state_dict"):
        next(loop)
    assert source.position == 0 and samples(take(source, 1)) == in_order(source.manifest, 8)


@pytest.mark.parametrize("batch_size", [8, None])
def test_a_state_that_is_loaded_in_the_last_batch_stays(shards, batch_size):
    source = stream(shards, batch_size, epochs=1, decode=False)
    begin = source.state_dict()
    loop = iter(source)
    take(loop, len(source))
    source.load_state_dict(begin)
    with pytest.raises(UserError, match="a new one after load_state_dict"):
        next(loop)
    assert source.position == 0 and len(list(source)) == len(source)


@pytest.mark.parametrize("workers", [0, 1])
def test_iterating_leaves_the_random_numbers_of_the_loop_alone(shards, workers):
    before = torch.get_rng_state()
    take(stream(shards, img_size=16, workers=workers), 2)
    assert torch.equal(torch.get_rng_state(), before)


LOOP = """
import json, sys, zlib
from pathlib import Path
import mae

shards, folder, batches, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
stream = mae.ShardStream(shards, batch_size=12, img_size=16, seed=3, workers=int(workers))
rank, state, start = stream.settings.rank, folder / "state.json", folder / "start.json"
if start.exists():
    stream.load_state_dict(json.loads(start.read_text()))
with (folder / f"rank-{rank}.txt").open("a") as log:
    for batch in stream:
        for key, image in zip(stream.keys(batch), batch.images):
            print(stream.position, key, zlib.crc32(image.numpy()), file=log, flush=True)
        if rank == 0:
            (folder / "new.json").write_text(json.dumps(stream.state_dict()))
            (folder / "new.json").replace(state)
        if stream.position >= 12 * batches:
            break
"""


def loop(shards, folder, batches, rank=0, world=1, workers=0):
    words = [sys.executable, "-c", LOOP, shards, str(folder), str(batches), str(workers)]
    root = Path(__file__).parents[2]
    env = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world), "PYTHONPATH": str(root)}
    return subprocess.Popen(words, env=env, cwd=root)


def lines(folder, rank):
    """Lines that were written whole; a killed process may leave the beginning of one."""
    whole = (folder / f"rank-{rank}.txt").read_text().rpartition("\n")[0].split("\n")
    return [line.split() for line in whole]


def test_kill_9_and_other_ranks_give_the_undisturbed_sequence(shards, tmp_path):
    """One process is killed in the middle; three others, with workers, go on from its state."""
    first, rest, undisturbed = (tmp_path / name for name in ("first", "rest", "undisturbed"))
    for folder in (first, rest, undisturbed):
        folder.mkdir()
    whole = loop(shards, undisturbed, 40)
    killed = loop(shards, first, 10**6, workers=1)
    while not (first / "state.json").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    state = (first / "state.json").read_text()
    done = json.loads(state)["position"]
    batches = max(40, done // 12 + 8)
    (rest / "start.json").write_text(state)
    ranks = [loop(shards, rest, batches, rank, 3, workers=rank % 2) for rank in range(3)]
    assert [rank.wait() for rank in ranks] == [0, 0, 0] and whole.wait() == 0
    if batches > 40:
        (undisturbed / "start.json").write_text((undisturbed / "state.json").read_text())
        assert loop(shards, undisturbed, batches).wait() == 0
    expected = lines(undisturbed, 0)
    before = lines(first, 0)
    assert before == expected[: len(before)] and len(before) >= done
    parts = [iter(lines(rest, rank)) for rank in range(3)]
    after = [next(parts[place // 4 % 3]) for place in range(12 * batches - done)]
    assert after == expected[done:]


# Bad samples and storage


@pytest.fixture
def damaged(tmp_path, make_shards):
    """Fifty samples, of which two are no longer what was indexed."""
    folder = make_shards(tmp_path / "damaged", SAMPLES)
    manifest = build_manifest([folder])
    for number in (6, 33):
        path = Path(manifest.shards[number // 8])
        times = path.stat()
        with path.open("r+b") as file:
            file.seek(int(manifest.offset[number]))
            file.write(bytes(100))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a disk changes it
    return folder


@pytest.mark.parametrize("decode", [True, False])
def test_bad_samples_are_replaced_named_and_counted(shards, damaged, caplog, decode):
    with caplog.at_level(logging.WARNING):
        one = list(stream(damaged, epochs=1, decode=decode))
    assert len(caplog.records) == 2 and "key sample-00006: not the bytes that" in caplog.text
    ranks = [stream(damaged, epochs=1, decode=decode, rank=r, world_size=2) for r in range(2)]
    rows = [list(rank) for rank in ranks]
    assert samples(itertools.chain(*zip(*rows, strict=True))) == samples(one)
    expected = in_order(ranks[0].manifest, 56)
    changed = {a for a, b in zip(expected, samples(one), strict=True) if a != b}
    assert changed == {6, 33} == {*ranks[0].bad, *ranks[1].bad}
    assert sorted(bad.sample for batch in one for bad in batch.bad if batch.bad)[0] == 6


def test_more_bad_samples_than_allowed_end_the_stream(damaged):
    source = stream(damaged, epochs=1, max_bad=1)
    with pytest.raises(RunFailed, match=r"2 bad samples, more than max_bad = 1; the last: .*key"):
        list(source)


def test_remote_shards_come_through_the_cache(shards, fast_retries, tmp_path):
    settings = {"order": "window", "window": 2, "img_size": 16, "workers": 1}
    with web_server() as server:
        for path in sorted(Path(shards).parent.glob("*.tar")):
            server.serve(f"/{path.name}", body(path.read_bytes(), etag="1"))
        address = f"{server.url}/shard-{{000000..000006}}.tar"
        remote = stream(
            address, cache_dir=tmp_path / "cache", index_dir=tmp_path / "index", **settings
        )
        found = take(remote, 12)
        for one, other in zip(found, take(stream(shards, **settings), 12), strict=True):
            assert torch.equal(one.images, other.images)
        with pytest.raises(UserError, match=r"^ShardStream: cache_gb: 1e-05, but order=global"):
            stream(address, cache_gb=1e-5, cache_dir=tmp_path, index_dir=tmp_path / "index")


def test_a_shard_that_vanishes_is_named(tmp_path, make_shards):
    folder = make_shards(tmp_path / "gone", 20)
    source = stream(folder, decode=False)
    (tmp_path / "gone" / "shard-000001.tar").unlink()
    with pytest.raises(StorageError, match="shard-000001"):
        list(itertools.islice(source, 5))


# Wrong use


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ("nowhere/*.tar", "shards: no such shard: nowhere/"),
        ([], "shards: no shards given"),
        (["", "a"], "shards: "),
    ],
)
def test_shards_that_are_not_there(shards, message):
    with pytest.raises(UserError, match="^" + message.replace("*", r"\*")):
        stream(shards)


def test_more_lanes_than_samples(shards):
    with pytest.raises(UserError, match=r"^ShardStream: lanes: 64 for 50 images: use order=global"):
        stream(shards, 64, order="lanes", lanes=64)


@pytest.mark.parametrize("settings", [{"batch_size": None}, {}, {"batch_size": None, "shuffle": 1}])
def test_a_data_loader_around_it_is_refused_in_one_line(shards, settings):
    for epochs in (None, 1):
        with pytest.raises(
            (UserError, TypeError), match=r"it is a loader: iterate|loader with wor"
        ):
            list(DataLoader(cast(Any, stream(shards, epochs=epochs)), **cast(Any, settings)))


def test_a_worker_of_a_data_loader_is_refused(shards):
    class Wrapped(IterableDataset):
        def __iter__(self):
            try:
                yield from stream(shards)
            except UserError as error:
                yield str(error)

    (message,) = DataLoader(Wrapped(), batch_size=None, num_workers=1)
    assert message.startswith("ShardStream: a loader with workers")


def test_no_length_without_an_end(shards):
    with pytest.raises(TypeError, match="no length without epochs"):
        len(stream(shards))


def test_the_name_at_the_top():
    assert mae.ShardStream is ShardStream
    with pytest.raises(AttributeError, match="has no attribute 'ShardStreams'"):
        mae.ShardStreams  # noqa: B018
    script = "import sys, mae; sys.exit(len({'torch', 'numpy', 'pydantic'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_what_it_says_of_itself(shards):
    source = stream(shards, rank=1, world_size=2)
    next(iter(source))
    expected = "ShardStream(50 samples in 7 shards, batch 8, rank 1 of 2, position 8)"
    assert repr(source) == expected
