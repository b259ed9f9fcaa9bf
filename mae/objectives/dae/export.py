"""Formats onnx and torch of a denoiser: one graph from noisy to clean images."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mae.export.contract import ExportFiles, ExportRequest
from mae.export.programs import require_onnx, trace_module, write_onnx_program
from mae.export.reading import prepare_code
from mae.objectives.autoencoders.export import (
    Method,
    graph_files,
    in_two_batches,
    open_onnx,
    refuse,
)
from mae.objectives.dae.model import DenoisingAutoencoder

FILES = """\
`denoiser{suffix}` takes normalised noisy `images`, float32
[batch, {channels}, {height}, {width}] with any batch, and gives `pictures` of the same shape in
[0, 1]."""

ONNX_CODE = """\
{imports}import onnxruntime
{define}
denoiser = onnxruntime.InferenceSession("FOLDER/denoiser.onnx")
{read}(pictures,) = denoiser.run(None, {{"images": images}})
"""

TORCH_CODE = """\
{imports}{define}
denoiser = torch.export.load("FOLDER/denoiser.pt2").module()
{read}pictures = denoiser(images)
"""


def write_onnx(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write denoiser.onnx.  Raises UserError as `require_onnx`."""
    refuse(request, "onnx")
    require_onnx()
    data = request.config.data
    write_onnx_program(
        folder / "denoiser.onnx",
        trace_module(denoiser(request), request.normalize(images)),
        inputs="images",
        outputs=["pictures"],
        metadata={"mean": list(data.mean), "std": list(data.std)},
    )
    code = ONNX_CODE.format(**prepare_code(request, as_tensor=False)._asdict())
    return described(request, images, ".onnx", code, load_onnx)._replace(
        tolerance=1e-4, reader="onnxruntime", library="onnx"
    )


def write_program(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write denoiser.pt2, for torch.export.load."""
    refuse(request, "torch")
    program = trace_module(denoiser(request), request.normalize(images))
    torch.export.save(program, folder / "denoiser.pt2")
    code = TORCH_CODE.format(**prepare_code(request, as_tensor=True)._asdict())
    return described(request, images, ".pt2", code, load_program)


def denoiser(request: ExportRequest) -> nn.Module:
    """Denoiser of the request's model: normalised noisy images → clean images in [0, 1]."""
    assert isinstance(request.model, DenoisingAutoencoder)
    return Method(request.model, "denoise_tile").eval()


@torch.no_grad()
def described(
    request: ExportRequest, images: Tensor, suffix: str, code: str, loader: Callable
) -> ExportFiles:
    """Description of the denoiser's file, and the data of its check."""
    normalised = request.normalize(images)
    return graph_files(
        request,
        inputs={"images": normalised},
        expected={"pictures": denoiser(request)(normalised)},
        files=FILES,
        suffix=suffix,
        code=code,
        loader=loader,
        part="denoiser",
    )


def load_onnx(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Pictures through onnxruntime."""
    return {"pictures": in_two_batches(open_onnx(folder / "denoiser.onnx"), inputs["images"])}


def load_program(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Pictures through torch.export."""
    run = torch.export.load(folder / "denoiser.pt2").module()
    return {"pictures": in_two_batches(run, inputs["images"])}
