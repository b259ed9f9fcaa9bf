"""Exported detectors run in a fresh process by their own libraries: loaders of mae.export.check."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mae.export.check import Tensors

GRAPH, PROGRAM = "detector.onnx", "detector.pt2"
OUTPUTS = ("score", "is_anomalous", "map")
IMAGE = "image."
"""precedes the numbers of images among the inputs, which are of different sizes"""
MAPS = 8
"""number of images whose maps are compared"""

Run = Callable[[Tensor], Sequence[Tensor]]


def load_onnx(folder: Path, inputs: Tensors, settings: dict[str, str]) -> Tensors:
    """Detections through onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / GRAPH), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Sequence[Tensor]:
        found = session.run(list(OUTPUTS), {"images": images.numpy()})
        return [torch.from_numpy(one) for one in found]

    return detections(run, inputs)


def load_program(folder: Path, inputs: Tensors, settings: dict[str, str]) -> Tensors:
    """Detections through torch.export."""
    return detections(torch.export.load(folder / PROGRAM).module(), inputs)


def detections(run: Run, inputs: Tensors) -> Tensors:
    """Outputs for the images [1 c h w] one by one, the maps of the first ones as one row.

    The first is computed as a batch of two, too: a graph must take any batch.
    """
    images = [inputs[name] for name in sorted(inputs) if name.startswith(IMAGE)]
    found = [run(image) for image in images]
    pair = [one[1:] for one in run(images[0].repeat(2, 1, 1, 1))]
    scores, labels, maps = zip(*found, pair, strict=True)
    return {
        "score": torch.cat(scores),
        "is_anomalous": torch.cat(labels).float(),
        "map": torch.cat([one.flatten() for one in (*maps[: min(MAPS, len(images))], maps[-1])]),
    }
