import ctypes
import subprocess
import sys

import pytest
import torch

from mae.base.device import keep_freed_memory

# Allocates four blocks of 16 MB and frees them.  Prints how many were mapped outside the heap, and
# the bytes by which the heap shrank.
PROGRAM = """
import ctypes, sys, torch
from mae.base.device import keep_freed_memory

class Info(ctypes.Structure):  # mallinfo(3)
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
keep_freed_memory(torch.device(sys.argv[1]))
before = libc.mallinfo2()
blocks = [libc.malloc(2**24) for _ in range(4)]
allocated = libc.mallinfo2()
for block in blocks[::-1]:
    libc.free(block)
print(allocated.hblks - before.hblks, allocated.arena - libc.mallinfo2().arena)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc 2.33")
def test_freed_blocks_stay_in_the_heap_on_cpu():
    def mapped_and_released(device):
        command = [sys.executable, "-c", PROGRAM, device]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [int(number) for number in output.split()]

    assert mapped_and_released("cpu") == [0, 0]
    assert mapped_and_released("cuda")[0] == 4  # glibc's defaults, unchanged


def test_without_glibc_nothing_changes(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory(torch.device("cpu"))


def test_on_a_gpu_nothing_changes(monkeypatch):
    class Refusing:
        def mallopt(self, *arguments):
            raise AssertionError

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Refusing())
    assert not keep_freed_memory(torch.device("cuda"))
