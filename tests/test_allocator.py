import ctypes
import subprocess
import sys

import pytest
import torch

from mae.allocator import keep_freed_memory

# Page faults of eight steps, where memory is kept and where not.
PROGRAM = """
import resource, sys
import mae.bench.training_step as steps
from mae.bench.cases import Case
if sys.argv[1] == "usual":
    steps.keep_freed_memory = lambda device: False
step = steps.build_step(Case("mae", "vit_tiny_patch16_224", 64, 1, 64))
for number in range(20):
    step()
    if number == 11:  # the heap has its size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_steps_find_their_memory_again():
    def faults(memory):
        command = [sys.executable, "-c", PROGRAM, memory]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("kept") < faults("usual") / 3


def test_without_glibc_nothing_is_done(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory(torch.device("cpu"))


def test_a_gpu_needs_nothing(monkeypatch):
    class Refusing:
        def mallopt(self, *arguments):
            raise AssertionError

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Refusing())
    assert not keep_freed_memory(torch.device("cuda"))
