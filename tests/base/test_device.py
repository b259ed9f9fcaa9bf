import ctypes
import subprocess
import sys

import pytest
import torch

from mae.base.device import keep_freed_memory

# Four blocks of 16 MB: how many lie outside the heap, and by how much it shrinks without them.
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
taken = libc.mallinfo2()
for block in blocks[::-1]:
    libc.free(block)
print(taken.hblks - before.hblks, taken.arena - libc.mallinfo2().arena)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc 2.33")
def test_blocks_stay_with_the_process():
    def outside_and_lost(device):
        command = [sys.executable, "-c", PROGRAM, device]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [int(word) for word in said.split()]

    assert outside_and_lost("cpu") == [0, 0]
    assert outside_and_lost("cuda")[0] == 4  # as ever


def test_without_glibc_nothing_is_done(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory(torch.device("cpu"))


def test_a_gpu_needs_nothing(monkeypatch):
    class Refusing:
        def mallopt(self, *arguments):
            raise AssertionError

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Refusing())
    assert not keep_freed_memory(torch.device("cuda"))
