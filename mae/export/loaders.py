"""Loaders of exported encoders, for a fresh process: the library's own code, no model of ours."""

from collections.abc import Callable
from pathlib import Path

import torch
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
