"""Check of an export in a fresh process: `python -m mae.export.check LOADER FOLDER FILE`.

LOADER (`module:function`) loads FOLDER through the library that it is meant for, without any model
of ours, and computes from the tensors in FILE what FILE says is expected.  Prints as JSON how far
each result is off, relative to the root mean square of what is expected.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

Tensors = dict[str, Tensor]


def load_timm(folder: Path, given: Tensors, notes: dict[str, str]) -> Tensors:
    """Features through timm.create_model."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    # Without this a tensor that is missing in the file would keep its random values unnoticed.
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    assert isinstance(model, VisionTransformer)
    images = given["images"]
    return {"tokens": model.forward_features(images), "pooled": model(images)}


def load_onnx(folder: Path, given: Tensors, notes: dict[str, str]) -> Tensors:
    """Features through onnxruntime."""
    import onnxruntime

    path = str(folder / "encoder.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens, pooled = session.run(["tokens", "pooled"], {"images": images.numpy()})
        return torch.from_numpy(tokens), torch.from_numpy(pooled)

    return _in_two_batches(run, given["images"])


def load_program(folder: Path, given: Tensors, notes: dict[str, str]) -> Tensors:
    """Features through torch.export."""
    return _in_two_batches(torch.export.load(folder / "encoder.pt2").module(), given["images"])


def _in_two_batches(run: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor) -> Tensors:
    """The first image alone, then the others: the graph must take any number."""
    results = [run(batch) for batch in (images[:1], images[1:]) if len(batch)]
    tokens, pooled = (torch.cat(parts) for parts in zip(*results, strict=True))
    return {"tokens": tokens, "pooled": pooled}


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
