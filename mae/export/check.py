"""`python -m mae.export.check LOADER FOLDER FILE`: a process that knows an export by its files.

LOADER (`module:function`) loads FOLDER through the library that it is meant for, and computes from
the tensors in FILE what FILE says is expected.  Prints as JSON how far each result is off,
relative to the root mean square of what is expected.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

PREFIX = "expected."


def main(argv: list[str]) -> int:
    """Exit code 0 and a line of JSON, or a traceback."""
    loader, folder, file = argv
    module, _, name = loader.partition(":")
    with safe_open(file, "pt") as opened:
        notes = opened.metadata()
    torch.set_num_threads(int(notes["threads"]))
    tensors = load_file(file)
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    with torch.no_grad():
        found = getattr(import_module(module), name)(Path(folder), given, notes)
    off = {}
    for name, expected in tensors.items():
        if name.startswith(PREFIX):
            off[name.removeprefix(PREFIX)] = difference(found[name.removeprefix(PREFIX)], expected)
    print(json.dumps(off))
    return 0


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest one, in units of the expected root mean square; infinite for NaN and misfits."""
    if found.shape != expected.shape:
        return float("inf")
    off = (found.double() - expected.double()).abs().max().item()
    scale = expected.double().square().mean().sqrt().item() or 1.0
    return off / scale if off == off else float("inf")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
