import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae.base import divided_work as driver
from mae.base.errors import PartDone, StorageError, UserError, WorkerDied
from mae.base.portion import Portion
from mae.data import shard_checks as module
from mae.data.indexing import build_manifest, write_index
from mae.data.verification import Defect, describe_verification
from mae.data.verify import verify, verify_shards
from mae.decoding import decode as decoding


@pytest.fixture
def jpeg(make_image):
    file = io.BytesIO()
    Image.fromarray(make_image(0, (60, 80))).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def mixed(tmp_path, make_tar, jpeg):
    """Two shards of good and bad images of several kinds."""
    deep = io.BytesIO()
    np.save(deep, np.zeros((8, 9), np.uint16))
    small = io.BytesIO()
    Image.new("L", (5, 4)).save(small, "PNG")
    make_tar(
        tmp_path / "a.tar", [("1.jpg", jpeg), ("2.jpg", jpeg[:-300]), ("3.npy", deep.getvalue())]
    )
    make_tar(tmp_path / "b.tar", [("1.png", b"none"), ("2.png", small.getvalue()), ("3.jpg", b"")])
    return build_manifest([f"{tmp_path}/*.tar"])


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("at_once", [1, 256])
def test_bad_images_are_named_in_order(mixed, tmp_path, monkeypatch, workers, at_once):
    monkeypatch.setattr(module, "SAMPLES_AT_ONCE", at_once)
    verified = verify(mixed, workers)
    assert [(Path(bad.shard).name, bad.key) for bad in verified.bad] == [
        ("a.tar", "2"),
        ("b.tar", "1"),
        ("b.tar", "3"),
    ]
    assert "truncated" in verified.bad[0].reason.lower()
    assert verified[3:6] == ({"jpg": 1, "npy": 1, "png": 1}, {1: 2, 3: 1}, {8: 2, 16: 1})
    assert verified == verify(mixed)


def test_what_a_person_reads(mixed, tmp_path, make_shards):
    lines = describe_verification(verify(mixed))
    assert lines[0].startswith(f"{tmp_path}/a.tar: key 2: does not decode: ")
    assert lines[-1] == "6 images in 2 shards: 3 bad"
    good = build_manifest([make_shards(tmp_path / "good", 20, channels=1)])
    assert describe_verification(verify(good, 2)) == [
        "20 jpg",
        "20 of 1 channels",
        "20 of 8 bits",
        "20 images in 3 shards: all good",
    ]


def test_many_bad_images_are_counted(tmp_path, make_tar):
    make_tar(tmp_path / "a.tar", [(f"{number:02}.jpg", b"none") for number in range(14)])
    lines = describe_verification(verify(build_manifest([f"{tmp_path}/a.tar"])))
    assert len(lines) == 12 and lines[10] == "and 4 more"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_flipped_bit_is_found(tmp_path, make_shards, workers):
    manifest = build_manifest([make_shards(tmp_path / "s", 12, shard_size=4)])
    shard = Path(manifest.shards[1])
    data = bytearray(shard.read_bytes())
    data[int(manifest.offset[6]) + 300] ^= 4
    shard.write_bytes(data)
    assert verify(manifest, workers).bad == (
        Defect(str(shard), "", "not the bytes that were indexed (sha256)"),
        Defect(str(shard), "sample-00006", "not the bytes that were indexed (checksum)"),
    )


def test_a_bit_outside_of_all_images_is_found_too(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path / "s", 4)])
    shard = Path(manifest.shards[0])
    data = bytearray(shard.read_bytes())
    data[0] ^= 1  # a letter of the first name
    shard.write_bytes(data)
    assert [bad.reason for bad in verify(manifest).bad] == [
        "not the bytes that were indexed (sha256)"
    ]


def test_a_shard_that_was_cut(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path / "s", 4)])
    os.truncate(manifest.shards[0], int(manifest.offset[3]) + 10)
    bad = verify(manifest).bad
    assert [item.key for item in bad] == ["", "sample-00003"] and "was cut" in bad[1].reason


def test_a_shard_that_is_gone_is_no_samples_fault(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path / "s", 4)])
    Path(manifest.shards[0]).unlink()
    with pytest.raises(StorageError, match="cannot be read: No such file"):
        verify(manifest, 2)


@pytest.fixture
def damaged(tmp_path, make_shards):
    """Three shards of four images, the first with a hole, the second cut short."""
    pattern = make_shards(tmp_path / "s", 12, shard_size=4)
    first, second, _ = sorted((tmp_path / "s").glob("*.tar"))
    data = first.read_bytes()
    first.write_bytes(data[:1024] + bytes(1024) + data[2048:])
    os.truncate(second, 1500)
    return pattern


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_shards_are_named_and_the_others_checked(damaged, tmp_path, workers):
    third = tmp_path / "s" / "shard-000002.tar"
    data = bytearray(third.read_bytes())
    at = data.index(b"\xff\xd8")
    data[at : at + 100] = bytes(100)
    third.write_bytes(data)
    verified = verify_shards([damaged], workers=workers)
    named = [(Path(bad.shard).name, bad.key) for bad in verified.bad]
    assert named == [
        ("shard-000000.tar", ""),
        ("shard-000001.tar", ""),
        ("shard-000002.tar", "sample-00008"),
    ]
    assert verified.bad[1].reason.startswith("is cut short")
    assert (verified.samples, verified.shards, verified.formats) == (4, 3, {"jpg": 3})
    assert describe_verification(verified)[-1] == "4 images in 3 shards: 3 bad"


def test_damaged_shards_alone_are_named_too(damaged, tmp_path):
    (tmp_path / "s" / "shard-000002.tar").unlink()
    verified = verify_shards([damaged])
    assert len(verified.bad) == 2
    assert describe_verification(verified)[-1] == "0 images in 2 shards: 2 bad"


def test_whole_shards_are_verified_as_their_manifest_is(tmp_path, make_shards):
    pattern = make_shards(tmp_path / "s", 5, shard_size=4)
    assert verify_shards([pattern]) == verify(build_manifest([pattern]))


def test_shards_without_images_are_no_data_set(tmp_path, make_tar):
    make_tar(tmp_path / "a.tar", [])
    with pytest.raises(UserError, match="verify: no images in 1 shards, first "):
        verify_shards([f"{tmp_path}/a.tar"])


def test_one_is_no_plural(tmp_path, make_shards):
    verified = verify_shards([make_shards(tmp_path / "s", 1)])
    assert describe_verification(verified)[-1] == "1 image in 1 shard: all good"


def test_progress_is_reported(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path / "s", 12, shard_size=5)])
    reported = []
    verify(manifest, progress=lambda *numbers: reported.append(numbers))
    assert reported == [(5, 12), (10, 12), (12, 12)]


def test_a_worker_that_dies_is_named(tmp_path, make_shards, monkeypatch):
    manifest = build_manifest([make_shards(tmp_path / "s", 12, shard_size=4)])
    decode = decoding.decode_native

    def die(data, extension):
        os.kill(os.getpid(), signal.SIGKILL)
        return decode(data, extension)

    monkeypatch.setattr(decoding, "decode_native", die)
    with pytest.raises(WorkerDied, match=r"key sample-0000.: its worker process \d+ was killed"):
        verify(manifest, 2)


# Divided among processes


TASKS = [Portion(number, 2, is_task=True) for number in range(2)]
JOIN = Portion(is_join=True)


def by_tasks(patterns, order=(0, 1), **options):
    for number in order:
        with pytest.raises(PartDone, match="is done"):
            verify_shards(patterns, portion=TASKS[number], **options)


@pytest.fixture
def several(tmp_path, make_shards, make_tar, jpeg):
    """Five shards: a damaged one, one with bad images, one with labels of unknown names."""
    pattern = make_shards(tmp_path / "s", 6, shard_size=2)
    damaged = tmp_path / "s" / "shard-000001.tar"
    damaged.write_bytes(damaged.read_bytes()[:1500])
    make_tar(tmp_path / "s" / "shard-bad.tar", [("1.jpg", jpeg[:-300]), ("2.jpg", jpeg)])
    make_tar(tmp_path / "s" / "shard-names.tar", [("1.jpg", jpeg), ("1.cls", b"dog")])
    return pattern


@pytest.fixture
def decoded(monkeypatch):
    """Names of the shards whose images are decoded, as a list that grows."""
    names, one = [], module._Checker.__call__

    def spy(checker, task):
        names.append(Path(task.shard).name)
        return one(checker, task)

    monkeypatch.setattr(module._Checker, "__call__", spy)
    return names


@pytest.mark.parametrize("most_parts", [4096, 2])
def test_tasks_and_their_join_find_what_one_process_finds(
    several, tmp_path, monkeypatch, most_parts
):
    monkeypatch.setattr(driver, "MOST_PARTS", most_parts)
    alone = verify_shards([several], out=tmp_path / "one.json")
    assert [(Path(bad.shard).name, bad.key) for bad in alone.bad] == [
        ("shard-000001.tar", ""),
        ("shard-bad.tar", "1"),
        ("shard-names.tar", ""),
    ]
    for order in ((0, 1), (1, 0)):
        by_tasks([several], order, out=tmp_path / "two.json")
        assert verify_shards([several], out=tmp_path / "two.json", portion=JOIN) == alone
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    written = json.loads((tmp_path / "one.json").read_text())
    assert written["samples"] == alone.samples == 7 and written["formats"] == {"jpg": 6}
    assert [Defect(**bad) for bad in written["bad"]] == list(alone.bad)
    by_tasks([several])
    assert verify_shards([several], portion=JOIN) == alone
    assert not list(tmp_path.rglob(".*.parts"))


@pytest.fixture
def interrupted(several, monkeypatch):
    """The five shards; a verification of them has stopped at the fourth."""
    one = module._Checker.__call__

    def stops(checker, task):
        if "shard-bad" in task.shard:
            raise StorageError("stopped")
        return one(checker, task)

    with monkeypatch.context() as patch:
        patch.setattr(module._Checker, "__call__", stops)
        with pytest.raises(StorageError, match="stopped"):
            verify_shards([several])
    return several


def test_a_resumed_verification_checks_the_rest_and_bad_shards(interrupted, decoded):
    resumed = verify_shards([interrupted])
    assert decoded == ["shard-000001.tar", "shard-bad.tar", "shard-names.tar"]
    assert resumed == verify_shards([interrupted])


def test_a_resumed_verification_calls_no_shard_good_that_changed(interrupted, tmp_path, decoded):
    """Also where size and time of the content are the same."""
    shard = tmp_path / "s" / "shard-000000.tar"
    content, status = bytearray(shard.read_bytes()), shard.stat()
    content[content.index(b"\xff\xd8") + 300] ^= 4
    shard.write_bytes(content)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    resumed = verify_shards([interrupted])
    assert [bad.key for bad in resumed.bad if bad.shard == str(shard)] == ["", "sample-00000"]
    assert "shard-000002.tar" not in decoded
    assert resumed == verify_shards([interrupted])


def test_other_class_names_are_another_result(tmp_path, make_tar, jpeg):
    shard = make_tar(tmp_path / "a.tar", [("1.jpg", jpeg), ("1.cls", b"dog")])
    make_tar(tmp_path / "b.tar", [("1.jpg", jpeg)])
    (tmp_path / "classes.txt").write_text("dog\n")
    pattern = f"{tmp_path}/*.tar"
    by_tasks([pattern])
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(UserError, match=r"1 of 2 parts are .* changed since"):
        verify_shards([pattern], portion=JOIN)
    by_tasks([pattern])
    assert [bad.shard for bad in verify_shards([pattern], portion=JOIN).bad] == [str(shard)]


def test_shards_of_a_manifest_file_are_compared_with_it(tmp_path, make_shards):
    pattern = make_shards(tmp_path / "s", 8, shard_size=2)
    file = tmp_path / "s" / "m.safetensors"
    write_index([pattern], file, "index")
    good = verify_shards([str(file)])
    assert good == verify_shards([pattern]) and not good.bad
    make_shards(tmp_path / "other", 2, size=(40, 50))
    (tmp_path / "other" / "shard-000000.tar").replace(tmp_path / "s" / "shard-000001.tar")
    by_tasks([str(file)])
    found = verify_shards([str(file)], portion=JOIN)
    assert {Path(bad.shard).name for bad in found.bad} == {"shard-000001.tar"}
    assert found.bad[0].reason == "not the bytes that were indexed (sha256)"
    assert found == verify_shards([str(file)])
    with pytest.raises(UserError, match="verify: shard named twice: "):
        verify_shards([str(file), f"{tmp_path}/s/shard-000000.tar"])
