"""Options of `mae export`."""

import argparse
from pathlib import Path
from typing import Any

from mae.options.parsing import command, positive

FORMATS = """\
timm: for timm.create_model("local-dir:OUT"); mae: one file in the names of the original release,
for mmsegmentation and detectron2; hf: transformers' ViTMAEForPreTraining, and ViTModel in
OUT/encoder; onnx: a graph for onnxruntime and others; torch: a program of torch.export"""


def add_export_commands(commands: Any) -> None:
    """`mae export`."""
    export = command(
        commands,
        "export",
        "export",
        "export the encoder of a run: written, loaded again by the library it is for, compared",
    )
    export.add_argument("run", type=Path, help="run folder, or one of its checkpoints")
    export.add_argument("out", type=Path, help="new folder")
    export.add_argument(
        "--format", choices=["timm", "mae", "hf", "onnx", "torch"], default="timm", help=FORMATS
    )
    export.add_argument(
        "--pool",
        choices=["token", "avg"],
        help="what stands for an image: the class token, or the mean of the patches (timm, onnx, "
        "torch; the class token where there is one, if unset)",
    )
    export.add_argument(
        "--img-size",
        type=size,
        metavar="H[,W]",
        help="for images of another size: positions interpolated as timm does it",
    )
    export.add_argument(
        "--decoder",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with the pretraining decoder (timm, mae, hf)",
    )
    export.add_argument(
        "--images",
        nargs="+",
        help="images or shards to check the export on (the run's own, if unset), or the word noise",
    )
    export.add_argument(
        "--push", metavar="NAME/REPO", help="then upload it to the Hugging Face hub, private if new"
    )


def size(text: str) -> tuple[int, int]:
    """256 or 256,192: height, width."""
    height, comma, width = text.partition(",")
    return positive(height), positive(width if comma else height)
