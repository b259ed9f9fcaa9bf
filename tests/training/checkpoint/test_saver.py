import json
import shutil
import subprocess
import sys
import threading
import time

import pytest
import torch
from accelerate import Accelerator

from mae.base.errors import RunFailed
from mae.training.checkpoint import saver as saver_module
from mae.training.checkpoint.checkpoint_files import newest_checkpoint, read_state
from mae.training.checkpoint.resume import load_model
from mae.training.checkpoint.saver import Saver
from mae.training.checkpoint.snapshot import Snapshots, buffer_checksums, checkpoint_tensors
from tests.runs import environment
from tests.training.checkpoint.test_checkpoint_files import (
    names,
    step,
    stepped,
    steps,
    training_state,
)
from tests.two_processes import run_two


@pytest.fixture
def build_saver(tmp_path):
    """`build_saver(keep_last=2, keep_every=0)`: a saver of one process, closed at the end."""
    built = []

    def build(keep_last=2, keep_every=0):
        built.append(Saver(tmp_path, keep_last, keep_every, Accelerator(cpu=True)))
        return built[-1]

    yield build
    for one in built:
        one.close()


@pytest.fixture
def slow_disk(monkeypatch):
    """`slow_disk(seconds)`: every write takes as long; returns the list of starts and ends."""
    write, events = saver_module.write_checkpoint, []

    def slow(seconds):
        def write_slowly(part, tensors, where):
            events.append(("start", where.step))
            time.sleep(seconds)
            written = write(part, tensors, where)
            events.append(("end", where.step))
            return written

        monkeypatch.setattr(saver_module, "write_checkpoint", write_slowly)
        return events

    return slow


def break_disk(monkeypatch, where="write_checkpoint"):
    def fail(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(saver_module, where, fail)


def test_training_waits_for_the_copy_and_not_for_the_disk(tmp_path, build_saver, slow_disk):
    events, saver, state = slow_disk(2), build_saver(), stepped()
    began = time.perf_counter()
    saver.save(*state, training_state())
    assert time.perf_counter() - began < 0.05 * 2
    assert ("end", 3) not in events and saver.problem() is None
    saver.close()
    assert read_state(tmp_path / "step-000000003") == training_state()


def test_what_is_written_are_the_weights_of_the_step_that_asked(tmp_path, build_saver, slow_disk):
    slow_disk(0.3)
    saver, (model, optimizer) = build_saver(), stepped()
    expected = model[0].weight.detach().clone()
    saver.save(model, optimizer, training_state())
    step(model, optimizer)
    saver.close()
    found, _ = stepped(0, seed=1)
    load_model(tmp_path / "step-000000003", found)
    assert torch.equal(found[0].weight, expected)
    assert not torch.equal(model[0].weight, expected)


def test_a_second_copy_takes_the_memory_of_the_first():
    model, optimizer = stepped()
    snapshots = Snapshots()
    before = snapshots.take(checkpoint_tensors(model, optimizer), is_kept=True)
    places = [tensor.data_ptr() for tensor in before.model.values()]
    step(model, optimizer)
    after = snapshots.take(checkpoint_tensors(model, optimizer), is_kept=True)
    assert [tensor.data_ptr() for tensor in after.model.values()] == places
    assert torch.equal(after.model["0.weight"], model[0].weight)


def test_one_write_at_a_time(tmp_path, build_saver, slow_disk):
    events, saver, state = slow_disk(0.2), build_saver(), stepped()
    for number in (1, 2, 3):
        saver.save(*state, training_state(number))
    saver.close()
    assert events == [(kind, number) for number in (1, 2, 3) for kind in ("start", "end")]
    assert steps(tmp_path) == [2, 3]


def test_waiting_is_until_it_is_on_disk(tmp_path, build_saver, slow_disk):
    slow_disk(0.2)
    build_saver().save(*stepped(), training_state(), wait=True)
    assert read_state(tmp_path / "step-000000003") == training_state()


def test_a_failed_write_is_reported_and_the_next_save_stops(tmp_path, build_saver, monkeypatch):
    saver, state = build_saver(), stepped()
    saver.save(*state, training_state(1), wait=True)
    with monkeypatch.context() as broken:
        break_disk(broken)
        saver.save(*state, training_state(2))
        saver.wait()
    problem = saver.problem()
    assert problem is not None and "\n" not in problem
    assert problem.startswith(f"step 2: {tmp_path} takes no checkpoint: [Errno 5] Input/output")
    with pytest.raises(RunFailed, match="step 2: "):
        saver.save(*state, training_state(3))
    assert saver.close() == problem
    assert newest_checkpoint(tmp_path) == (tmp_path / "step-000000001", training_state(1), {})


def test_a_failed_write_is_raised_to_who_waits_for_it(build_saver, monkeypatch):
    break_disk(monkeypatch)
    with pytest.raises(RunFailed, match="Input/output error; earlier checkpoints are intact"):
        build_saver().save(*stepped(), training_state(), wait=True)


def test_a_mistake_of_ours_in_the_thread_is_reported_and_nothing_is_deleted(
    tmp_path, build_saver, monkeypatch
):
    saver, state = build_saver(), stepped()
    for number in (1, 2):
        saver.save(*state, training_state(number), wait=True)
    monkeypatch.setattr("mae.training.checkpoint.checkpoint_files._stamp", lambda path: 1 / 0)
    with pytest.raises(RunFailed, match=r"takes no checkpoint: ZeroDivisionError\("):
        saver.save(*state, training_state(3), wait=True)
    assert steps(tmp_path) == [1, 2]


def test_weights_that_are_not_finite_are_not_saved(tmp_path, build_saver):
    model, optimizer = stepped()
    with torch.no_grad():
        model[1].bias[2] = float("inf")
    for save in (build_saver().save, build_saver().save_alone):
        with pytest.raises(RunFailed, match="step 3: the weights are not finite; nothing was sav"):
            save(model, optimizer, training_state())
    assert names(tmp_path) == []


def test_buffers_that_are_not_finite_are_not_saved_either(tmp_path, build_saver):
    model, optimizer = stepped()
    model.register_buffer("counts", torch.tensor([1, 2]))
    model.register_buffer("scale", torch.tensor([1.0, float("nan")]))
    with pytest.raises(RunFailed, match="step 3: the weights are not finite; nothing was saved"):
        build_saver().save(model, optimizer, training_state())
    assert names(tmp_path) == []


def test_checksums_see_every_bit_and_place():
    model = torch.nn.Module()
    values = torch.tensor([0.5, -0.0, 3.0, 0.5])
    tensors = [values, -values, values[[1, 0, 2, 3]], values.abs(), values.double(), values[:3]]
    tensors += [torch.tensor(one) for one in (True, False, 7, 8, 1.5)]
    tensors += [values.bfloat16(), torch.zeros(2, 0), torch.view_as_complex(values.view(2, 2))]
    tensors.append(values.view(2, 2).T)
    for number, tensor in enumerate(tensors):
        model.register_buffer(f"b{number}", tensor)
    found = buffer_checksums(model)
    # A complex number is its two parts, in their places.
    assert found["b0"] == found.pop("b13") and len(set(found.values())) == len(found)
    assert buffer_checksums(model)["b14"] == found["b14"]
    with torch.no_grad():
        values[2] = torch.nextafter(values[2], torch.tensor(4.0))
    assert buffer_checksums(model)["b0"] != found["b0"]


BUFFERS = """
import os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from accelerate import Accelerator
from mae.base.errors import RunFailed
from mae.training.checkpoint.saver import Saver
from mae.training.fsdp2 import prepare
from tests.training.checkpoint.test_checkpoint_files import training_state
from tests.training.checkpoint.test_resume import build

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
model, optimizer = build(seed=rank)
prepared, optimizer = prepare(model, optimizer, accelerator)
(folder / "saved").mkdir(exist_ok=True)
saver = Saver(folder / "saved", 9, 0, accelerator)

def save(number):
    try:
        saver.save(model, optimizer.optimizer, training_state(number), wait=True)
    except RunFailed as error:
        return str(error)
    return "saved"

print(save(1))
model.scale[2] += rank  # no forward pass makes them one again
prepared(torch.ones(4, 5)).backward()
assert model.scale[2] == 0.5 + rank
print(save(2))
model.scale[2] -= rank
print(save(3))
dist.destroy_process_group()
"""


def test_buffers_that_differ_between_processes_end_the_run_on_all(tmp_path):
    """They are the first process's at the start, and each process's own from then on."""
    first, second = run_two(BUFFERS, tmp_path)
    assert first == second
    one, two, three = first.splitlines()
    assert one == three == "saved"
    assert two.startswith(
        "step 2: buffer scale of process 1 is not that of process 0; nothing was saved: "
    )
    assert steps(tmp_path / "saved") == [1, 3]


def test_a_folder_that_is_gone_is_refused_and_not_made_again(tmp_path, build_saver):
    saver = build_saver()
    tmp_path.rmdir()
    with pytest.raises(RunFailed, match=f"step 3: {tmp_path} takes no checkpoint: .*No such file"):
        saver.save(*stepped(), training_state())
    assert not tmp_path.exists()
    tmp_path.mkdir()


def test_a_folder_that_goes_while_it_is_written_is_reported(tmp_path, build_saver, slow_disk):
    slow_disk(0.3)
    saver = build_saver()
    saver.save(*stepped(), training_state())
    shutil.rmtree(tmp_path)
    assert "takes no checkpoint" in (saver.close() or "")
    assert not tmp_path.exists()
    tmp_path.mkdir()


def test_a_disk_without_room_is_refused_before_anything_is_copied(
    tmp_path, build_saver, monkeypatch
):
    saver, state = build_saver(), stepped()
    saver.save(*state, training_state(1), wait=True)
    monkeypatch.setattr(
        "mae.training.checkpoint.checkpoint_files.MARGIN_BYTES",
        2 * shutil.disk_usage(tmp_path).free,
    )
    monkeypatch.setattr(saver.snapshots, "take", None)
    with pytest.raises(RunFailed) as refused:
        saver.save(*state, training_state(2))
    assert f"{tmp_path} takes no checkpoint: it needs " in str(refused.value)
    assert " MB are free; earlier checkpoints are intact" in str(refused.value)
    assert steps(tmp_path) == [1]


def test_a_process_saves_alone_while_another_writes_the_same_step(tmp_path, slow_disk):
    """Two savers of one folder, as two processes that meet the same end."""
    slow_disk(0.2)
    state = stepped()
    pair = [Saver(tmp_path, 2, 0, Accelerator(cpu=True)) for _ in range(2)]
    threads = [
        threading.Thread(target=one.save_alone, args=(*state, training_state())) for one in pair
    ]
    for thread in threads:
        thread.start()
    for thread, one in zip(threads, pair, strict=True):
        thread.join()
        assert one.close() is None
    assert names(tmp_path) == ["step-000000003"]
    assert read_state(tmp_path / "step-000000003") == training_state()


def test_a_limit_on_the_size_of_files_ends_in_one_line(tmp_path):
    """A file size limit, set in a subprocess, is to the writer like a full disk."""
    done = run_python(
        f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
saver, state = Saver(Path({str(tmp_path)!r}), 2, 0, Accelerator(cpu=True)), stepped()
saver.save(*state, training_state(1), wait=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
print(json.dumps([refusal(lambda: saver.save(*state, training_state(2), wait=True))]))
"""
    )
    (reason,) = done
    assert reason.startswith(f"step 2: {tmp_path} takes no checkpoint: ")
    assert steps(tmp_path) == [1]
    found = newest_checkpoint(tmp_path)
    assert found is not None and not found.damaged


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """Results of saving on a 20 MB file system: with room, filled meanwhile, full, read-only.

    Each is the refusal, None where there is none, and the folder's checkpoints.
    """
    disk = tmp_path_factory.mktemp("disk")
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=20m none {disk}"
    if subprocess.run([*unshare, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    body = f"""
disk, state = Path({str(disk)!r}), stepped()
def attempt(number, fill=0):
    saver = Saver(disk, 2, 0, Accelerator(cpu=True))
    if fill:
        reserve = mae.training.checkpoint.saver.reserve
        def reserve_and_fill(*args):
            part = reserve(*args)
            with suppress(OSError), (disk / "other").open("wb", buffering=0) as other:
                while True:
                    other.write(bytes(4096))
            return part
        mae.training.checkpoint.saver.reserve = reserve_and_fill
    reason = refusal(lambda: saver.save(*state, training_state(number), wait=True))
    if fill:
        mae.training.checkpoint.saver.reserve = reserve
    saver.close()
    return reason, sorted(path.name for path in disk.glob("step-*"))
results = {{"room": attempt(1)}}
results["filled"] = attempt(2, fill=True)
results["full"] = attempt(3)
(disk / "other").unlink()
subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
results["read-only"] = attempt(4)
print(json.dumps(results))
"""
    return run_python(body, [*unshare, "sh", "-c", f'{mount} && exec "$0" "$@"'])


def test_a_small_disk_takes_what_it_has_room_for(small_disk):
    assert small_disk["room"] == [None, ["step-000000001"]]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("filled", "No space left on device"),
        ("full", "it needs 16.8 MB, and 0.0 MB are free"),
        ("read-only", "Read-only file system"),
    ],
)
def test_a_full_disk_is_reported_and_keeps_its_checkpoints(small_disk, fault, words):
    reason, left = small_disk[fault]
    assert " takes no checkpoint: " in reason and words in reason
    assert left == ["step-000000001"]


def run_python(body, before=()):
    """The JSON that a program printed, in a process of its own."""
    program = f"""
import json, subprocess
from contextlib import suppress
from pathlib import Path
from accelerate import Accelerator
import mae.training.checkpoint.saver
from mae.base.errors import RunFailed
from mae.training.checkpoint.saver import Saver
from tests.training.checkpoint.test_checkpoint_files import training_state, stepped
def refusal(call):
    try:
        call()
    except RunFailed as error:
        return str(error)
{body}"""
    command = [*before, sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
