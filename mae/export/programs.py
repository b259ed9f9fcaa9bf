"""Modules as graphs that run without our Python code: torch.export programs, and ONNX of these."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mae.base.errors import UserError

BATCH = torch.export.Dim("batch", min=1)
SIDES = ("rows", "columns")
"""names of an image's sides, in units of their common divisor if any"""

MAX_INLINE_BYTES = 1.8e9
"""maximum bytes of weights inside the ONNX file, whose format ends at 2 GB; more go to a second
file"""


@torch.no_grad()
def trace_module(
    module: nn.Module, example: Tensor, multiple: int = 0, *, any_size: bool = False
) -> ExportedProgram:
    """Trace a module with one input to a graph for any batch size.

    `example`: an input with at least one row.  `multiple`: height and width, the dimensions 2 and
    3, are any multiples of it, too (0: those of the example); `any_size`: they are any lengths.
    """
    shapes: dict[int, Any] = {0: BATCH}
    if any_size:
        shapes |= {axis + 2: torch.export.Dim(name) for axis, name in enumerate(SIDES)}
    if multiple:
        shapes |= {axis + 2: multiple * torch.export.Dim(name) for axis, name in enumerate(SIDES)}
    rows = example[:1].repeat(2, *[1] * (example.ndim - 1))  # a batch of one becomes a constant
    program = torch.export.export(module.eval(), (rows,), dynamic_shapes=(shapes,))
    program.example_inputs = None  # private images, and the only part that is pickled
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # local paths
    return program


def require_onnx() -> None:
    """Raise UserError without onnxruntime, which checks the file, or onnxscript."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format onnx: needs {error.name}: pip install 'maekit[onnx]'") from None


def write_onnx_program(
    path: Path,
    program: ExportedProgram,
    *,
    inputs: str,
    outputs: Sequence[str],
    metadata: Mapping[str, object],
    any_size: bool = False,
) -> None:
    """Write an ONNX file, in the default opset of the installed torch.

    `inputs`: name of the one input; `metadata`: values that become JSON; `any_size`: the program
    takes images of any size.
    """
    names = {0: BATCH, **({2: "height", 3: "width"} if any_size else {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's about itself
        graph = torch.onnx.export(
            program,
            dynamic_shapes=(names,),  # names the dimension; the program defines it
            input_names=[inputs],
            output_names=list(outputs),
            dynamo=True,
            verbose=False,
        )
    assert graph is not None
    graph.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    size = sum(one.numel() * one.element_size() for one in program.state_dict.values())
    graph.save(path, external_data=size > MAX_INLINE_BYTES)
