import ctypes
import subprocess
import sys

import pytest
import torch

from mae.allocator import keep_freed_memory

# 40 MB, taken and freed; page faults of the last ten rounds.
PROGRAM = """
import resource, torch
from mae.allocator import keep_freed_memory
keep_freed_memory(torch.device({device!r}))
for number in range(20):
    torch.ones(10 * 2**20)
    if number == 9:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_memory_is_cleared_once():
    def faults(device):
        command = [sys.executable, "-c", PROGRAM.format(device=device)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    kept, usual = faults("cpu"), faults("cuda")
    assert kept < usual / 10


def test_without_glibc_nothing_is_done(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory(torch.device("cpu"))


def test_a_gpu_needs_nothing(monkeypatch):
    class Refusing:
        def mallopt(self, *arguments):
            raise AssertionError

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Refusing())
    assert not keep_freed_memory(torch.device("cuda"))
