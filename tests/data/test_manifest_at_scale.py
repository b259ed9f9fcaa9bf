"""Ten billion samples, and shards of more than 4 GB: files with holes."""

import io
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.sparse_manifest import write_sparse
from mae.config.sections import Config
from mae.data.batch import BatchSharding
from mae.data.images import Images
from mae.data.index import COLUMNS, shard_index
from mae.data.indexing import join
from mae.data.manifest_file import open_manifest
from mae.data.manifest_writer import write_manifest
from mae.data.order import LAYOUTS, Order, _WindowOrder
from mae.data.shard_index import ShardIndex
from mae.data.shard_reader import ShardReader
from mae.data.tar_members import walk
from mae.data.training_data import open_training_data

EACH = 100_000
SHARDS = 100_000
SAMPLES = EACH * SHARDS
BATCH = 8


@pytest.fixture
def index(tmp_path, make_shards):
    """Index of a real shard of five images, which lists each of them EACH / 5 times."""
    make_shards(tmp_path, 5, shard_size=5, size=(20, 24))
    (tmp_path / "shard-000000.tar").rename(tmp_path / "one.tar")
    known = shard_index(str(tmp_path / "one.tar"))
    times = EACH // len(known.offset)
    columns: dict[str, Any] = {name: np.tile(getattr(known, name), times) for name in COLUMNS}
    return known._replace(**columns)


@pytest.mark.parametrize("mode", ["global", "window", "lanes"])
def test_a_run_on_ten_billion_samples_reads_what_the_order_says(tmp_path, index, mode):
    file = tmp_path / "all.safetensors"
    data = {"train": (str(file),), "order": mode, "lanes": 4, "workers": 0, "in_chans": 3}
    config = Config.model_validate({"data": data, "train": {"batch_size": BATCH}})
    counts = [np.full(SHARDS, EACH)]
    order = Order(config.train.seed, counts, mode=mode, lanes=4, batch_size=BATCH)
    step = 3 * SAMPLES // BATCH - 1  # the last of the third epoch
    expected = order(np.arange(step * BATCH, (step + 2) * BATCH))
    write_sparse(file, "one.tar", index, SHARDS, np.append(expected.sample, SAMPLES - 1))
    assert file.stat().st_size > 2e11 and file.stat().st_blocks * 512 < 1e8

    _, training = open_training_data(config)
    assert len(training.manifest) == SAMPLES > 2**33
    ranks = [
        training.batches(config, BatchSharding(BATCH, 2, rank, 1), (16, 16), step, step + 2)
        for rank in range(2)
    ]
    batches = [batch for both in zip(*ranks, strict=True) for batch in both]
    assert [s for batch in batches for s in batch.samples.tolist()] == expected.sample.tolist()
    assert not any(batch.bad for batch in batches)
    assert expected.sample.max() > 2**32 and set(expected.view.tolist()) == {2, 3}
    assert training.manifest.shard_of(SAMPLES - 1) == SHARDS - 1
    real = join([str(tmp_path / "one.tar")], [shard_index(str(tmp_path / "one.tar"))])
    assert Images(training.manifest, 3)[SAMPLES - 1].equal(Images(real, 3)[4])


def test_an_order_keeps_the_layouts_of_few_epochs():
    """Of a million shards each takes 16 MB, in every data worker."""
    order = Order(0, [np.full(50, 2)], mode="window")
    for epoch in range(100):
        order(np.arange(epoch * 100, epoch * 100 + 3))
    (stream,) = order.streams
    assert isinstance(stream, _WindowOrder)
    assert list(stream.layouts) == list(range(100 - LAYOUTS, 100))


def test_a_shard_of_more_than_4_gb(tmp_path, make_image):
    content = io.BytesIO()
    np.save(content, make_image(1))
    data, path = content.getvalue(), tmp_path / "large.tar"
    hole = 5 << 30
    with path.open("wb") as target:
        for name, size in (("large.bin", hole), ("far.npy", len(data))):
            member = tarfile.TarInfo(name)
            member.size = size
            target.write(member.tobuf(tarfile.GNU_FORMAT))
            if size == hole:
                target.seek(hole, os.SEEK_CUR)
            else:
                target.write(data.ljust(-(-len(data) // 512) * 512, b"\0"))
        target.write(bytes(1024))
    _, far = walk(path)
    assert far.offset > hole
    index = ShardIndex(
        keys=b"far",
        offset=np.array([far.offset]),
        size=np.array([far.size], np.uint32),
        crc=np.array([zlib.crc32(data)], np.uint32),
        label=np.array([3], np.int32),
        kind=np.array([0], np.uint8),
        bytes=path.stat().st_size,
        sha256="0" * 64,
    )
    write_manifest(join([str(path)], [index]), tmp_path / "all.safetensors")
    manifest = open_manifest(str(tmp_path / "all.safetensors"))
    assert ShardReader(manifest).read(0) == data
    assert Path(manifest.shards[0]) == path
