import ctypes
import os
import subprocess
import sys

import pytest
import torch

from mae.base import device
from mae.base.device import (
    choose_device,
    idle_gpus,
    keep_freed_memory,
    loader_count,
    prepare_gpus,
    return_freed_memory,
    usable_cores,
    worker_count,
)
from mae.base.errors import UserError

# Allocates six blocks of 16 MB and frees them.  Prints how many were mapped outside the heap, and
# the bytes by which the heap shrank.
PROGRAM = """
import ctypes, sys, torch
from mae.base.device import keep_freed_memory, return_freed_memory

class Info(ctypes.Structure):  # mallinfo(3)
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
keep_freed_memory(torch.device(sys.argv[1]))
if sys.argv[2:]:
    return_freed_memory()
before = libc.mallinfo2()
blocks = [libc.malloc(2**24) for _ in range(6)]
allocated = libc.mallinfo2()
for block in blocks[::-1]:
    libc.free(block)
print(allocated.hblks - before.hblks, allocated.arena - libc.mallinfo2().arena)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc 2.33")
def test_freed_blocks_stay_in_the_heap_on_cpu():
    def mapped_and_released(*words):
        command = [sys.executable, "-c", PROGRAM, *words]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [int(number) for number in output.split()]

    assert mapped_and_released("cpu") == [0, 0]
    assert mapped_and_released("cuda")[0] == 6  # glibc's defaults, unchanged
    mapped, released = mapped_and_released("cpu", "undo")
    assert mapped == 0 and released > 0


def test_what_was_not_kept_is_not_returned(monkeypatch):
    """After a training on a GPU, malloc still adapts itself, which any setting would end."""
    calls = []

    class Libc:
        def mallopt(self, *setting):
            calls.append(setting)
            return 1

        def malloc_trim(self, pad):
            calls.append(pad)

    monkeypatch.setattr(device, "_is_freed_memory_kept", False, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())
    keep_freed_memory(torch.device("cuda"))
    return_freed_memory()
    assert not calls
    keep_freed_memory(torch.device("cpu"))
    calls.clear()
    for _ in range(2):
        return_freed_memory()
    assert len(calls) == 2  # once


def test_without_glibc_nothing_changes(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory(torch.device("cpu"))


def test_on_a_gpu_nothing_changes(monkeypatch):
    class Refusing:
        def mallopt(self, *arguments):
            raise AssertionError

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Refusing())
    assert not keep_freed_memory(torch.device("cuda"))


@pytest.fixture
def gpus(monkeypatch):
    """`gpus(number, LOCAL_RANK=…)` sets the number of GPUs and a launcher's variables."""

    def pretend(number: int, **variables: str) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch, "empty", lambda *size, device: None)
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return pretend


LAUNCHED = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_of_a_launcher_has_a_gpu_of_its_own(gpus, name):
    gpus(8, **LAUNCHED)
    assert choose_device(name) == "cuda:1"
    gpus(8)
    assert choose_device(name) == "cuda"
    gpus(8, **LAUNCHED)
    assert choose_device("cpu") == "cpu" and choose_device("cuda:1") == "cuda:1"
    with pytest.raises(UserError, match="cuda:5: each process of a launch has a GPU of its own"):
        choose_device("cuda:5")


def test_processes_without_gpus_share_the_cpu(gpus):
    gpus(0, **LAUNCHED)
    assert choose_device("auto") == "cpu"


def test_fewer_gpus_than_processes_are_refused(gpus):
    gpus(1, **LAUNCHED)
    with pytest.raises(UserError) as error:
        choose_device("auto")
    assert str(error.value).startswith("2 processes for 1 GPU: start at most 1 (--processes, or ")


@pytest.mark.parametrize("is_supported", [True, False])
def test_gpus_without_direct_transfers_are_used_without(gpus, monkeypatch, is_supported):
    monkeypatch.setattr("accelerate.utils.check_cuda_p2p_ib_support", lambda: is_supported)
    gpus(2, **LAUNCHED)
    monkeypatch.setattr(os, "environ", {**LAUNCHED, "NCCL_IB_DISABLE": "0"})
    prepare_gpus()
    assert os.environ.get("NCCL_P2P_DISABLE") == (None if is_supported else "1")
    assert os.environ["NCCL_IB_DISABLE"] == "0", "set by the user"


@pytest.mark.parametrize(
    ("number", "variables", "line"),
    [
        (8, {}, "1 of 8 GPUs are used: --processes 8 uses all"),
        (8, {**LAUNCHED, "LOCAL_RANK": "0"}, "2 of 8 GPUs are used: --processes 8 uses all"),
        (8, LAUNCHED, ""),  # not the first of its machine
        (2, {**LAUNCHED, "LOCAL_RANK": "0"}, ""),
        (1, {}, ""),
        (0, {}, ""),
    ],
)
def test_idle_gpus_are_named_once_a_machine(gpus, number, variables, line):
    gpus(number, **variables)
    assert idle_gpus() == line


@pytest.fixture
def cores(monkeypatch, tmp_path):
    """`cores(number, limit)` sets the number of cores and the text of a container's limit."""

    def pretend(number: int, limit: str = "") -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: 999)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {*range(number)})
        monkeypatch.setattr(device, "CPU_LIMIT", tmp_path / "cpu.max")
        if limit:
            (tmp_path / "cpu.max").write_text(limit)

    return pretend


@pytest.mark.parametrize(
    ("limit", "usable"),
    [
        ("", 16),
        ("max 100000", 16),
        ("400000 100000", 4),
        ("50000 100000", 1),
        ("9900000 100000", 16),
    ],
)
def test_cores_of_a_container_are_those_it_may_use(cores, limit, usable):
    cores(16, limit)
    assert usable_cores() == usable


@pytest.mark.parametrize(("local", "share"), [("1", 7), ("2", 3), ("8", 1)])
def test_the_processes_of_a_machine_share_its_cores(cores, monkeypatch, local, share):
    cores(7)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert worker_count(None) == loader_count(None) == share
    assert [worker_count(asked) for asked in (0, 64)] == [0, 64]
    assert [loader_count(asked) for asked in (0, 64)] == [0, 64]


def test_data_workers_are_no_more_than_memory_holds(cores, monkeypatch):
    cores(224)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert loader_count(None) == 32 and worker_count(None) == 224
