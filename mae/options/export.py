"""Options of `mae export`."""

import argparse
from pathlib import Path
from typing import Any

from mae.objectives.registry import OBJECTIVES, declaration
from mae.options.parsing import command, positive

SHARED = {
    "timm": 'for timm.create_model("local-dir:OUT")',
    "onnx": "a graph for onnxruntime and others",
    "torch": "a program of torch.export",
    "plain": "all weights and the settings, for mae itself",
}
"""formats of objectives with an encoder of timm's; the last one of any"""


def add_export_commands(commands: Any) -> None:
    """`mae export`."""
    export = command(
        commands,
        "export",
        "export",
        "export the model of a run: written, loaded again by the library it is for, compared",
    )
    export.add_argument("run", type=Path, help="run folder, or one of its checkpoints")
    export.add_argument("out", type=Path, help="new folder")
    export.add_argument("--format", metavar="FORMAT", help=describe_formats())
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
        help="with the decoder of an encoder, where the format has a place for it",
    )
    export.add_argument(
        "--images",
        nargs="+",
        help="images or shards to check the export on (the run's own, if unset), or the word noise",
    )
    export.add_argument(
        "--push", metavar="NAME/REPO", help="then upload it to the Hugging Face hub, private if new"
    )


def describe_formats() -> str:
    """All formats, for --help."""
    formats = [f"{name}: {text}" for name, text in SHARED.items()]
    for objective in map(declaration, OBJECTIVES):
        formats += [f"{name}: {text}" for name, text in objective.exports.items()]
    return f"{'; '.join(formats)} (timm for encoders of timm's, plain for others, if unset)"


def size(text: str) -> tuple[int, int]:
    """256 or 256,192: height, width."""
    height, comma, width = text.partition(",")
    return positive(height), positive(width if comma else height)
