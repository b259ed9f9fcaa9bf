"""Formats onnx and torch of an autoencoder: its encoder and decoder, or its denoiser, as graphs."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mae.export.check import outputs_in_two_batches
from mae.export.contract import ExportFiles, ExportRequest, refuse_options
from mae.export.programs import require_onnx, trace_module, write_onnx_program
from mae.export.reading import expected_photograph, prepare_code
from mae.objectives.autoencoders.discrete import DiscreteAutoencoder
from mae.objectives.autoencoders.model import Autoencoder

CODE_AGREEMENT = 0.999
"""share of the codes that must be the same: rounding decides between codes that are equally near"""

FILES = """\
`encoder{suffix}` takes normalised `images`, float32 [batch, {channels}, {height}, {width}] with any
batch, and gives `{stored}` {shape}; `decoder{suffix}` takes these and gives `pictures`,
[batch, {channels}, {height}, {width}] in [0, 1]."""

ONNX_CODE = """\
{imports}import onnxruntime
{define}
encoder = onnxruntime.InferenceSession("FOLDER/encoder.onnx")
decoder = onnxruntime.InferenceSession("FOLDER/decoder.onnx")
{read}({stored},) = encoder.run(None, {{"images": images}})
(pictures,) = decoder.run(None, {{"{stored}": {stored}}})
"""

TORCH_CODE = """\
{imports}{define}
encoder = torch.export.load("FOLDER/encoder.pt2").module()
decoder = torch.export.load("FOLDER/decoder.pt2").module()
{read}{stored} = encoder(images)
pictures = decoder({stored})
"""


Run = Callable[[Tensor], Tensor]


class Method(nn.Module):
    """A method of a model as a module, to be traced."""

    def __init__(self, model: nn.Module, name: str) -> None:
        """`name`: of a method from one tensor to another."""
        super().__init__()
        self.model, self.name = model, name

    def forward(self, given: Tensor) -> Tensor:
        """Result of the method."""
        return getattr(self.model, self.name)(given)


class Parts(NamedTuple):
    """Encoder and decoder as modules, with their tensors for the check images."""

    encoder: nn.Module
    decoder: nn.Module
    stored_name: str
    """latents, or codes"""
    images: Tensor
    stored: Tensor
    pictures: Tensor


@torch.no_grad()
def split_model(request: ExportRequest, images: Tensor) -> Parts:
    """Encoder and decoder of the model, and what they compute of the check images."""
    model = request.model
    assert isinstance(model, Autoencoder)
    normalised = request.normalize(images)
    stored = model.compress(normalised)
    name = "codes" if isinstance(model, DiscreteAutoencoder) else "latents"
    encoder, decoder = (Method(model, method).eval() for method in ("compress", "decompress"))
    return Parts(encoder, decoder, name, normalised, stored, model.decompress(stored))


def write_onnx(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write encoder.onnx and decoder.onnx.  Raises UserError as `require_onnx`."""
    refuse(request, "onnx")
    require_onnx()
    parts, data = split_model(request, images), request.config.data
    metadata = {"mean": list(data.mean), "std": list(data.std)}
    for name, module, example, inputs, outputs in (
        ("encoder", parts.encoder, parts.images, "images", parts.stored_name),
        ("decoder", parts.decoder, parts.stored, parts.stored_name, "pictures"),
    ):
        program = trace_module(module, example)
        path = folder / f"{name}.onnx"
        write_onnx_program(path, program, inputs=inputs, outputs=[outputs], metadata=metadata)
    code = ONNX_CODE.format(
        **prepare_code(request, as_tensor=False)._asdict(), stored=parts.stored_name
    )
    return described(request, parts, suffix=".onnx", code=code, loader=load_onnx)._replace(
        tolerance=1e-4, reader="onnxruntime", library="onnx"
    )


def write_programs(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write encoder.pt2 and decoder.pt2, for torch.export.load."""
    refuse(request, "torch")
    parts = split_model(request, images)
    torch.export.save(trace_module(parts.encoder, parts.images), folder / "encoder.pt2")
    torch.export.save(trace_module(parts.decoder, parts.stored), folder / "decoder.pt2")
    code = TORCH_CODE.format(
        **prepare_code(request, as_tensor=True)._asdict(), stored=parts.stored_name
    )
    return described(request, parts, suffix=".pt2", code=code, loader=load_programs)


def refuse(request: ExportRequest, format: str) -> None:
    """Raise UserError for options that choose a part of the model."""
    refuse_options(
        request,
        format,
        {
            "--pool": "its encoder gives the latents",
            "--no-decoder": "it exports encoder and decoder as files of their own",
        },
    )


def described(
    request: ExportRequest, parts: Parts, *, suffix: str, code: str, loader: Callable
) -> ExportFiles:
    """Description of encoder and decoder files, and the data of their check."""
    is_codes = parts.stored_name == "codes"
    expected = {"agreement": torch.ones(1)} if is_codes else {"latents": parts.stored}
    shape = f"[batch, {', '.join(map(str, parts.stored.shape[1:]))}]"
    return graph_files(
        request,
        inputs={"images": parts.images, "stored": parts.stored},
        expected={**expected, "pictures": parts.pictures},
        files=FILES.replace("{stored}", parts.stored_name).replace("{shape}", shape),
        suffix=suffix,
        code=code,
        loader=loader,
        part="autoencoder",
    )


def graph_files(
    request: ExportRequest,
    *,
    inputs: dict[str, Tensor],
    expected: dict[str, Tensor],
    files: str,
    suffix: str,
    code: str,
    loader: Callable,
    part: str,
) -> ExportFiles:
    """Description of files of graphs; `files` names them with {suffix}, {channels} and so on."""
    height, width = request.model.img_size
    channels = request.config.data.in_chans
    return ExportFiles(
        inputs=inputs,
        expected=expected | expected_photograph(request),
        tolerance=1e-5,
        reader="torch.export",
        files=files.format(suffix=suffix, channels=channels, height=height, width=width),
        code=code,
        loader=loader,
        library="pytorch",
        part=part,
    )


def load_onnx(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Latents or codes, and pictures, through onnxruntime."""
    return compare(open_onnx(folder / "encoder.onnx"), open_onnx(folder / "decoder.onnx"), inputs)


def open_onnx(path: Path) -> Run:
    """Function of the one input of an ONNX file, by onnxruntime."""
    import onnxruntime

    opened = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (argument,) = opened.get_inputs()
    return lambda batch: torch.from_numpy(opened.run(None, {argument.name: batch.numpy()})[0])


def load_programs(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Latents or codes, and pictures, through torch.export."""
    encoder = torch.export.load(folder / "encoder.pt2").module()
    decoder = torch.export.load(folder / "decoder.pt2").module()
    return compare(encoder, decoder, inputs)


def compare(encoder: Run, decoder: Run, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of both parts, each in two batches: the graphs must take any batch size."""
    stored = in_two_batches(encoder, inputs["images"])
    found = {"pictures": in_two_batches(decoder, inputs["stored"])}
    if stored.is_floating_point():
        return {**found, "latents": stored}
    same = (stored == inputs["stored"]).float().mean()
    return {**found, "agreement": torch.where(same >= CODE_AGREEMENT, 1.0, same)[None]}


def in_two_batches(run: Run, rows: Tensor) -> Tensor:
    """The one output for the first row alone, then for the others."""
    (found,) = outputs_in_two_batches(lambda batch: [run(batch)], rows)
    return found
