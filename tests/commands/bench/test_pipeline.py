"""Our pipeline as an endless stream, the time of its parts, and the copies of images."""

import time

import pytest

from mae.base.errors import UserError
from mae.commands.bench.pipeline import StagedBatches, copy_samples, our_bytes
from mae.data.indexing import build_manifest
from mae.data.shard_reader import ShardReader
from mae.data.transform import apply_view_into
from mae.decoding.decode import decode

SIZE = (32, 32)


def test_copies_are_evenly_spaced_files_with_their_labels(loader_manifest, tmp_path):
    copied = copy_samples(loader_manifest, 6, tmp_path / "copied", shards=4)
    assert len(copied) == 6 and len(copied.shards) == 4
    keys = sorted(int(copied.key(sample)) for sample in range(6))
    assert keys == [0, 4, 8, 12, 16, 20]
    reader, original = ShardReader(copied), ShardReader(loader_manifest)
    for sample in range(6):
        source = int(copied.key(sample))
        assert reader.read(sample) == original.read(source)
        assert copied.label[sample] == loader_manifest.label[source]


def test_images_that_do_not_decode_are_not_copied(tmp_path, make_shards, make_tar):
    good = build_manifest([make_shards(tmp_path / "good", 2)])
    bytes_of = [bytes(ShardReader(good).read(sample)) for sample in range(2)]
    members = [("a.jpg", bytes_of[0]), ("b.jpg", b"no image"), ("c.jpg", bytes_of[1])]
    manifest = build_manifest([str(make_tar(tmp_path / "mixed.tar", members))])
    copied = copy_samples(manifest, 2, tmp_path / "copied", shards=1)
    assert [copied.key(sample) for sample in range(2)] == ["000000000", "000000002"]
    with pytest.raises(UserError, match="2 JPEG and PNG images, not 3"):
        copy_samples(manifest, 3, tmp_path / "again", shards=1)


def test_reading_gives_every_sample(loader_manifest):
    ours = our_bytes(loader_manifest)
    originals = [ShardReader(loader_manifest).read(sample) for sample in range(24)]
    assert sorted(next(ours) for _ in range(48)) == sorted(originals * 2)


def test_the_parts_of_a_batch_are_timed_in_place(loader_manifest, monkeypatch):
    def slow(function, seconds):
        def slowly(*arguments):
            time.sleep(seconds)
            return function(*arguments)

        return slowly

    monkeypatch.setattr("mae.data.images.decode", slow(decode, 0.004))
    monkeypatch.setattr("mae.data.views.apply_view_into", slow(apply_view_into, 0.002))
    staged = StagedBatches(loader_manifest, SIZE, batch_size=8)
    for _ in range(2):
        stages = staged.next_batch()
        assert stages.decoding > 0.032 and stages.resizing > 0.016
        assert 0 < stages.reading < stages.rest
        assert stages.whole == pytest.approx(stages.decoding + stages.resizing + stages.rest)
        assert stages.rest < stages.whole / 2
    staged.stream.close()
