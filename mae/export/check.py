"""Check of an export in a fresh process: `python -m mae.export.check LOADER FOLDER FILE`.

LOADER (`module:function`) loads FOLDER through the library that it is meant for, without any of
our models.  FILE holds the inputs and, with a prefix, the expected outputs.  The printed code, if
any, is run on an image file.  Prints as JSON the maximum difference of each output, relative to the
root mean square of the expected one.
"""

import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

EXPECTED_PREFIX = "expected."
"""precedes the names of expected outputs in FILE"""

OUTPUTS = "outputs.json"
"""file inside a program of torch.export with the names of its outputs"""

Tensors = dict[str, Tensor]


def main(argv: list[str]) -> int:
    """Print a line of JSON and return exit code 0; errors are left to raise."""
    loader, folder, file = argv
    module, _, function = loader.partition(":")
    with safe_open(file, "pt") as opened:
        settings = opened.metadata()
    torch.set_num_threads(int(settings["threads"]))
    tensors = load_file(file)
    inputs = {k: tensor for k, tensor in tensors.items() if not k.startswith(EXPECTED_PREFIX)}
    with torch.no_grad():
        found = getattr(import_module(module), function)(Path(folder), inputs, settings)
        if code := settings.get("code"):
            found["photograph"] = run_code(code)
    errors = {}
    for key, expected in tensors.items():
        if key.startswith(EXPECTED_PREFIX):
            name = key.removeprefix(EXPECTED_PREFIX)
            errors[name] = relative_error(found[name], expected)
    print(json.dumps(errors))
    return 0


def run_code(code: str) -> Tensor:
    """Run the code of the model card, which makes `images` of an image file; returns them."""
    names: dict[str, Any] = {}
    exec(compile(code, "code of the model card", "exec"), names)
    return torch.as_tensor(names["images"])


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Maximum difference in units of the expected root mean square; inf for NaN or other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    error = (found.double() - expected.double()).abs().max().item()
    scale = expected.double().square().mean().sqrt().item() or 1.0
    return error / scale if error == error else float("inf")


def load_timm(folder: Path, inputs: Tensors, settings: dict[str, str]) -> Tensors:
    """Features through timm.create_model."""
    import timm

    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    # timm itself would leave the random values of a tensor that is missing in the file.
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    images = inputs["images"]
    name = "logits" if model.num_classes else "pooled"
    return {"tokens": model.forward_features(images), name: model(images)}


def load_onnx(folder: Path, inputs: Tensors, settings: dict[str, str]) -> Tensors:
    """Features through onnxruntime."""
    import onnxruntime

    path = str(folder / "encoder.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> Sequence[Tensor]:
        return [torch.from_numpy(one) for one in session.run(names, {"images": images.numpy()})]

    return dict(zip(names, outputs_in_two_batches(run, inputs["images"]), strict=True))


def load_program(folder: Path, inputs: Tensors, settings: dict[str, str]) -> Tensors:
    """Features through torch.export."""
    extra = {OUTPUTS: ""}
    program = torch.export.load(folder / "encoder.pt2", extra_files=extra)
    found = outputs_in_two_batches(program.module(), inputs["images"])
    return dict(zip(json.loads(extra[OUTPUTS]), found, strict=True))


def outputs_in_two_batches(run: Callable[[Tensor], Sequence[Tensor]], rows: Tensor) -> list[Tensor]:
    """Outputs for the first row alone, then the others: a graph must take any batch size."""
    results = [run(batch) for batch in (rows[:1], rows[1:]) if len(batch)]
    return [torch.cat(parts) for parts in zip(*results, strict=True)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
