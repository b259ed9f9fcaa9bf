"""Formats onnx and torch of a denoiser: one graph for tiles of any size, and the code around it."""

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mae.export.contract import ExportFiles, ExportRequest, refuse_options
from mae.export.programs import require_onnx, trace_module, write_onnx_program
from mae.export.reading import PHOTOGRAPH, pixels_code
from mae.objectives.autoencoders.export import open_onnx
from mae.objectives.noise2void.model import TILE, Denoiser
from mae.objectives.noise2void.tiling import continued, in_tiles

FILES = """\
`denoiser{suffix}` takes normalised noisy `images`, float32 [batch, {channels}, height, width] with
any batch and sides that are multiples of {multiple}, and gives `pictures` of the same shape in
[0, 1]. The code below pads images of any size and denoises large ones in tiles that overlap by
{margin} pixels, as far as the network sees, so that there are no seams."""

CODE = """\
{imports}import numpy as np{pillow}


{define}

{open}
pixels = {read}
mean, std = np.array([{mean}, {std}])[..., None, None]
images = ((np.atleast_3d(pixels).transpose(2, 0, 1) / {white} - mean) / std)[None]
images = images.astype(np.float32)
pictures = in_tiles({run}, images, {multiple}, {margin}, {tile})
"""

ONNX_OPEN = 'denoiser = onnxruntime.InferenceSession("FOLDER/denoiser.onnx")'
ONNX_RUN = 'lambda tile: denoiser.run(None, {"images": tile})[0]'
TORCH_OPEN = 'denoiser = torch.export.load("FOLDER/denoiser.pt2").module()'
TORCH_RUN = "lambda tile: denoiser(torch.from_numpy(tile)).numpy()"

CHECK_TILE = 2
"""sides of the check's tiles, in units of the smallest overlap"""


class Denoise(nn.Module):
    """Denoiser of normalised tiles, to be traced."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1]."""
        return self.model.denoise_normalized(images)


def write_onnx(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write denoiser.onnx.  Raises UserError as `require_onnx`."""
    require_onnx()
    model, data = denoiser_of(request, "onnx"), request.config.data
    program = trace_module(Denoise(model), example(model), model.multiple)
    write_onnx_program(
        folder / "denoiser.onnx",
        program,
        inputs="images",
        outputs=["pictures"],
        metadata={"mean": list(data.mean), "std": list(data.std), "multiple": model.multiple},
        any_size=True,
    )
    code = code_of(request, "import onnxruntime\n", ONNX_OPEN, ONNX_RUN)
    return described(request, images, ".onnx", code, load_onnx)._replace(
        tolerance=1e-4, reader="onnxruntime", library="onnx"
    )


def write_program(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write denoiser.pt2, for torch.export.load."""
    model = denoiser_of(request, "torch")
    program = trace_module(Denoise(model), example(model), model.multiple)
    torch.export.save(program, folder / "denoiser.pt2")
    code = code_of(request, "import torch\n", TORCH_OPEN, TORCH_RUN)
    return described(request, images, ".pt2", code, load_program)


def denoiser_of(request: ExportRequest, format: str) -> Denoiser:
    """Model of the request.  Raises UserError for options that choose a part of it."""
    reason = {"--pool": "it gives pictures", "--no-decoder": "it exports one network"}
    refuse_options(request, format, reason)
    assert isinstance(request.model, Denoiser)
    return request.model


def example(model: Denoiser) -> Tensor:
    """Normalised tile for tracing, whose sides differ."""
    return torch.zeros(2, model.in_chans, 3 * model.multiple, 4 * model.multiple)


def code_of(request: ExportRequest, imports: str, opened: str, run: str) -> str:
    """Python code from an image file to its denoised pixels."""
    data, model = request.config.data, request.model
    assert isinstance(model, Denoiser)
    pixels = pixels_code(data.in_chans, data.bits)
    return CODE.format(
        imports=imports,
        pillow=f"\n{pixels.imports}".rstrip(),
        define="\n\n".join(map(inspect.getsource, (continued, in_tiles))).replace(
            "run: Run", "run"
        ),
        open=opened,
        read=pixels.expression,
        mean=list(data.mean),
        std=list(data.std),
        white=2**data.bits - 1,
        run=run,
        multiple=model.multiple,
        margin=model.margin,
        tile=TILE,
    )


@torch.no_grad()
def described(
    request: ExportRequest, images: Tensor, suffix: str, code: str, loader: Callable
) -> ExportFiles:
    """Description of the file, and its check: in tiles on the file, in one piece by the model."""
    model = request.model
    assert isinstance(model, Denoiser)
    normalised = model.split(images).noisy
    expected = {"pictures": model.denoise(normalised)}
    if request.photograph is not None:
        expected[PHOTOGRAPH] = request.normalize(request.photograph[None])
    return ExportFiles(
        inputs={"images": normalised},
        expected=expected,
        tolerance=1e-5,
        reader="torch.export",
        files=FILES.format(
            suffix=suffix,
            channels=model.in_chans,
            multiple=model.multiple,
            margin=model.margin,
        ),
        code=code,
        loader=loader,
        library="pytorch",
        part="denoiser",
        settings={"multiple": str(model.multiple), "margin": str(model.margin)},
    )


def denoised(run: Callable, inputs: dict[str, Tensor], settings: dict[str, str]) -> Tensor:
    """Pictures in small tiles, the first image alone and then the others."""
    multiple, margin = int(settings["multiple"]), int(settings["margin"])
    rows = inputs["images"].numpy()
    parts = [
        in_tiles(run, part, multiple, margin, CHECK_TILE * multiple)
        for part in (rows[:1], rows[1:])
        if len(part)
    ]
    return torch.from_numpy(np.concatenate(parts))


def load_onnx(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Pictures through onnxruntime."""
    run = open_onnx(folder / "denoiser.onnx")
    return {"pictures": denoised(lambda one: run(torch.from_numpy(one)).numpy(), inputs, settings)}


def load_program(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Pictures through torch.export."""
    run = torch.export.load(folder / "denoiser.pt2").module()
    return {"pictures": denoised(lambda one: run(torch.from_numpy(one)).numpy(), inputs, settings)}
