"""Export of the encoder as a graph that runs without our Python code: ONNX, or torch.export."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from timm.models.hiera import MaskUnitAttention
from torch import Tensor, nn

from mae.export.check import OUTPUTS, load_onnx, load_program
from mae.export.contract import (
    ExportFiles,
    ExportRequest,
    Pool,
    exported_part,
    features,
    vector_name,
)
from mae.export.programs import require_onnx, trace_module, write_onnx_program
from mae.export.reading import expected_photograph, prepare_code
from mae.networks.encoders.registry import adapter_of
from mae.networks.vit import encoder_shape

GRAPH, PROGRAM = "encoder.onnx", "encoder.pt2"

CLASS_NAMES = "class_names.json"
"""file inside a program with the class names, a JSON list"""

ONNX_NAMES = """\
import json

names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
"""
PROGRAM_NAMES = f"""\
import json

extra = {{"{CLASS_NAMES}": ""}}
torch.export.load("FOLDER/encoder.pt2", extra_files=extra)
names = json.loads(extra["{CLASS_NAMES}"])
"""

FILES = """\
`{name}` takes normalised `images`, float32 [batch, {channels}, {height}, {width}] with any batch,
and gives `tokens` [batch, {tokens}, {width_of_tokens}] and `{vector}`, {pooled}{names}."""

ONNX_CODE = """\
{imports}import onnxruntime
{define}
session = onnxruntime.InferenceSession("FOLDER/encoder.onnx")
{read}tokens, {vector} = session.run(None, {{"images": images}})
"""

PROGRAM_CODE = """\
{imports}{define}
encoder = torch.export.load("FOLDER/encoder.pt2").module()
{read}tokens, {vector} = encoder(images)
"""


class Encoder(nn.Module):
    """`features` of one encoder as a module, for tracing; patches by rows, whatever the class."""

    def __init__(self, request: ExportRequest) -> None:
        super().__init__()
        self.vit = request.encoder
        self.pool: Pool | None = request.pool

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised [b c h w] → all tokens [b tokens d], and one vector per image [b d]."""
        tokens, vector = features(self.vit, images, self.pool)
        return adapter_of(self.vit).ordered(self.vit, tokens), vector


@torch.no_grad()
def _expected(request: ExportRequest, images: Tensor) -> dict[str, Tensor]:
    """`ExportFiles.expected` for normalised `images` [b c h w]."""
    tokens, vector = Encoder(request)(images)
    return {"tokens": tokens, vector_name(request.encoder): vector}


@contextmanager
def unfused_windows(vit: nn.Module) -> Iterator[None]:
    """Attention within mask units as matrix products: ONNX has the fused one for four axes only."""
    windows: list[Any] = [part for part in vit.modules() if isinstance(part, MaskUnitAttention)]
    before = [part.fused_attn for part in windows]
    for part in windows:
        part.fused_attn = False
    try:
        yield
    finally:
        for part, fused in zip(windows, before, strict=True):
            part.fused_attn = fused


def write_onnx(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write encoder.onnx, in the default opset of the installed torch.

    Raises UserError as `require_onnx`.
    """
    require_onnx()
    data, normalised = request.config.data, request.normalize(images)
    facts: dict[str, list] = {"mean": list(data.mean), "std": list(data.std)}
    if request.label_names:
        facts["class_names"] = request.label_names
    with unfused_windows(request.encoder):
        program = trace_module(Encoder(request), normalised)
    write_onnx_program(
        folder / GRAPH,
        program,
        inputs="images",
        outputs=["tokens", vector_name(request.encoder)],
        metadata=facts,
    )
    return ExportFiles(
        inputs={"images": normalised},
        expected=_expected(request, normalised) | expected_photograph(request),
        tolerance=1e-4,
        reader="onnxruntime",
        files=_files(request, GRAPH, "its metadata `class_names`"),
        code=_code(ONNX_CODE, ONNX_NAMES, request, as_tensor=False),
        loader=load_onnx,
        library="onnx",
        part=exported_part(request),
    )


def write_program(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write encoder.pt2, for torch.export.load, AOTInductor and ExecuTorch."""
    facts: dict[str, list] = {OUTPUTS: ["tokens", vector_name(request.encoder)]}
    if request.label_names:
        facts[CLASS_NAMES] = request.label_names
    extra = {name: json.dumps(value) for name, value in facts.items()}
    normalised = request.normalize(images)
    program = trace_module(Encoder(request), normalised)
    torch.export.save(program, folder / PROGRAM, extra_files=extra)
    return ExportFiles(
        inputs={"images": normalised},
        expected=_expected(request, normalised) | expected_photograph(request),
        tolerance=1e-5,
        reader="torch.export",
        files=_files(request, PROGRAM, f"its extra file `{CLASS_NAMES}`"),
        code=_code(PROGRAM_CODE, PROGRAM_NAMES, request, as_tensor=True),
        loader=load_program,
        library="pytorch",
        part=exported_part(request),
    )


def _code(code: str, names: str, request: ExportRequest, *, as_tensor: bool) -> str:
    """Code that loads the file; `names` is the code for class names."""
    vector, parts = vector_name(request.encoder), prepare_code(request, as_tensor=as_tensor)
    return code.format(**parts._asdict(), vector=vector) + names * bool(request.label_names)


def _files(request: ExportRequest, name: str, names: str) -> str:
    """Description of the file `name`; `names`: where it has the class names."""
    vit = request.encoder
    shape = encoder_shape(vit)
    height, width = shape.img_size
    return FILES.format(
        name=name,
        channels=shape.in_chans,
        height=height,
        width=width,
        tokens=shape.num_prefix_tokens + shape.num_patches,
        width_of_tokens=shape.embed_dim,
        vector=vector_name(vit),
        names=f", whose names are a JSON list in {names}" if vit.num_classes else "",
        pooled=f"logits of {vit.num_classes} classes"
        if vit.num_classes
        else "the class token"
        if request.pool == "token"
        else adapter_of(vit).mean,
    )
