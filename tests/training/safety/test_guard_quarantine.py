import json
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator

from mae.base.errors import RunFailed
from mae.data.images import BadSample, Images
from mae.data.indexing import build_manifest
from mae.training.safety import guard as module
from mae.training.safety.guard import Quarantine

ONE, TWO, THREE = (BadSample(number, f"shard: key {number}: bad") for number in (1, 2, 3))


@pytest.fixture
def manifest(tmp_path, make_shards):
    return build_manifest([make_shards(tmp_path / "shards", 10)])


@pytest.fixture
def file(tmp_path):
    return tmp_path / "quarantine.jsonl"


@pytest.fixture
def start(file, manifest):
    """`start(max_bad=100)`: a start of the run."""
    accelerator = Accelerator(cpu=True)
    return lambda max_bad=100: Quarantine(file, manifest, max_bad, accelerator)


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_bad_sample_is_named_with_shard_and_key(start, file, manifest):
    quarantine = start()
    quarantine.add([TWO])
    assert quarantine.synchronize(step=7) == 1
    assert rows(file) == [
        {
            "sample": 2,
            "shard": manifest.shards[0],
            "key": "sample-00002",
            "error": "shard: key 2: bad",
            "step": 7,
            "data": manifest.fingerprint,
            "offset": manifest.offset[2],
            "bytes": manifest.size[2],
        }
    ]


def test_without_bad_samples_there_is_no_file(start, file):
    quarantine = start()
    quarantine.add([])
    assert quarantine.synchronize(step=1) == 0
    quarantine.check()
    assert not file.exists()


def test_each_is_named_once(start, file):
    quarantine = start()
    quarantine.add([THREE, ONE])
    quarantine.add([ONE, BadSample(1, "bad in another way")])
    assert quarantine.synchronize(step=1) == 2
    quarantine.add([ONE, TWO, THREE])
    assert quarantine.synchronize(step=2) == 3
    assert quarantine.synchronize(step=3) == 3
    assert [(row["sample"], row["step"]) for row in rows(file)] == [(1, 1), (3, 1), (2, 2)]


def test_a_restart_knows_those_of_before(start, file):
    quarantine = start()
    quarantine.add([ONE, TWO])
    quarantine.synchronize(step=1)
    again = start()
    assert again.known == {1, 2}
    again.add([TWO, THREE])
    assert again.synchronize(step=2) == 3
    assert [row["sample"] for row in rows(file)] == [1, 2, 3]


@pytest.mark.parametrize("end", [1, 5, 20, -2, -1])
def test_a_line_cut_off_by_a_kill_is_passed_over(start, file, end):
    quarantine = start()
    quarantine.add([ONE, TWO])
    quarantine.synchronize(step=1)
    first, second, _ = file.read_text().split("\n")
    file.write_text(f"{first}\n{second[:end] if end != -1 else second}")
    again = start()
    assert again.known == ({1, 2} if end == -1 else {1})
    again.add([TWO, THREE])
    again.synchronize(step=2)
    whole = []
    for line in file.read_text().splitlines():
        try:
            whole.append(json.loads(line)["sample"])
        except ValueError:
            assert line == second[:end]
    assert whole == [1, 2, 3]


@pytest.mark.parametrize(
    "line", ["[]", "3", '"sample"', "{}", '{"sample": null}', '{"sample": "x"}']
)
def test_foreign_lines_are_passed_over(start, file, manifest, line):
    file.write_text(f'{line}\n{{"sample": 4, "data": "{manifest.fingerprint}"}}\n')
    assert start().known == {4}


def test_all_processes_come_to_the_same(start, file, monkeypatch):
    """Bad samples of two processes; a fake `gather_object` adds those of the second."""
    monkeypatch.setattr(module, "gather_object", lambda pending: [*pending, THREE, ONE])
    quarantine = start()
    quarantine.add([TWO, ONE])
    assert quarantine.synchronize(step=1) == 3
    assert [row["sample"] for row in rows(file)] == [1, 2, 3]


def test_only_the_main_process_writes(start, file):
    quarantine = start()
    quarantine.is_main = False
    quarantine.add([ONE])
    assert quarantine.synchronize(step=1) == 1
    assert not file.exists()


def test_more_than_max_bad_end_the_run(start, file):
    quarantine = start(max_bad=2)
    quarantine.add([ONE, TWO, ONE])
    quarantine.synchronize(step=1)
    quarantine.check()  # as many as may be
    assert not quarantine.exceeds_max_bad()
    quarantine.add([THREE])
    quarantine.synchronize(step=2)
    assert quarantine.exceeds_max_bad()
    with pytest.raises(RunFailed) as error:
        quarantine.check()
    message = str(error.value)
    assert message.startswith("3 unreadable images, more than data.max_bad = 2: ")
    assert str(file) in message and "\n" not in message


def test_those_of_earlier_starts_count(start):
    quarantine = start()
    quarantine.add([ONE, TWO, THREE])
    quarantine.synchronize(step=1)
    assert start(max_bad=2).exceeds_max_bad()
    assert not start(max_bad=3).exceeds_max_bad()


def test_none_may_be_bad_at_all(start):
    quarantine = start(max_bad=0)
    quarantine.check()
    quarantine.add([ONE])
    quarantine.synchronize(step=1)
    with pytest.raises(RunFailed, match=r"data\.max_bad = 0"):
        quarantine.check()


def test_signed_addresses_are_not_written_down(start, file, manifest):
    quarantine = start()
    signed = ("https://host/a.tar?X-Amz-Signature=secret",) * 2
    quarantine.manifest = replace(manifest, shards=signed)
    quarantine.add([ONE])
    quarantine.synchronize(step=1)
    assert "secret" not in file.read_text()
    assert rows(file)[0]["shard"] == "https://host/a.tar"


def test_numbers_of_other_data_are_not_these(start, file):
    quarantine = start()
    quarantine.add([ONE])
    quarantine.synchronize(step=1)
    text = file.read_text()
    file.write_text(text.replace(rows(file)[0]["data"], "0" * 64))
    assert start().known == set()


def test_a_process_that_saves_alone_writes_what_it_met(start, file):
    quarantine = start()
    quarantine.is_main = False
    quarantine.add([ONE, ONE])
    quarantine.write_local(step=3)
    assert [(row["sample"], row["step"]) for row in rows(file)] == [(1, 3)]
    assert start().known == {1}


def test_a_mended_image_no_longer_counts_and_its_row_stays(file, manifest):
    """One of two bad images is restored byte for byte; the other one stays bad."""
    shard = Path(manifest.shards[0])
    whole, accelerator = shard.read_bytes(), Accelerator(cpu=True)
    quarantine = Quarantine(file, manifest, 1, accelerator)
    for number in (1, 2):
        quarantine.add([BadSample(number, "bad")])
    quarantine.synchronize(step=5)
    damaged = bytearray(whole)
    damaged[int(manifest.offset[2]) + 50] ^= 255
    shard.write_bytes(damaged)
    images = Images(manifest, channels=3)
    again = Quarantine(file, manifest, 1, accelerator, images, step=8)
    assert again.known == {2} and not again.exceeds_max_bad()
    assert [(row["sample"], row.get("readable_since")) for row in rows(file)] == [(1, 8), (2, None)]
    again.add([BadSample(1, "bad again")])
    assert again.synchronize(step=9) == 2
    assert len(rows(file)) == 3
    shard.write_bytes(whole)
    assert Quarantine(file, manifest, 0, accelerator, Images(manifest, 3), 12).known == set()
