"""Modules as graphs that run without our Python code: torch.export programs, and ONNX of these."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mae.base.errors import UserError

BATCH = torch.export.Dim("batch", min=1)

MAX_INLINE_BYTES = 1.8e9
"""maximum bytes of weights inside the ONNX file, whose format ends at 2 GB; more go to a second
file"""


@torch.no_grad()
def trace_module(module: nn.Module, example: Tensor) -> ExportedProgram:
    """Trace a module with one input to a graph for any batch size.

    `example`: an input with at least one row.
    """
    rows = example[:1].repeat(2, *[1] * (example.ndim - 1))  # a batch of one becomes a constant
    program = torch.export.export(module.eval(), (rows,), dynamic_shapes=({0: BATCH},))
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
) -> None:
    """Write an ONNX file, in the default opset of the installed torch.

    `inputs`: name of the one input; `metadata`: values that become JSON.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's about itself
        graph = torch.onnx.export(
            program,
            dynamic_shapes=({0: BATCH},),  # names the dimension; the program defines it
            input_names=[inputs],
            output_names=list(outputs),
            dynamo=True,
            verbose=False,
        )
    assert graph is not None
    graph.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    size = sum(one.numel() * one.element_size() for one in program.state_dict.values())
    graph.save(path, external_data=size > MAX_INLINE_BYTES)
