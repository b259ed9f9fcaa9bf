"""Export of the encoder as a graph that runs without our Python code: ONNX, or torch.export."""

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mae.base.errors import UserError
from mae.export.check import OUTPUTS, load_onnx, load_program
from mae.export.contract import (
    ExportFiles,
    ExportRequest,
    Pool,
    expected_features,
    exported_part,
    features,
    vector_name,
)
from mae.export.reading import expected_photograph, prepare_code

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

BATCH = torch.export.Dim("batch", min=1)

MAX_INLINE_BYTES = 1.8e9
"""maximum bytes of weights inside the ONNX file, whose format ends at 2 GB; more go to a second
file"""

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
    """`features` of one encoder as a module, for tracing."""

    def __init__(self, request: ExportRequest) -> None:
        super().__init__()
        self.vit = request.encoder
        self.pool: Pool | None = request.pool

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised [b c h w] → all tokens [b tokens d], and one vector per image [b d]."""
        return features(self.vit, images, self.pool)


def write_onnx(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write encoder.onnx, in the default opset of the installed torch.

    Raises UserError without onnxruntime, which checks it, or onnxscript.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format onnx: needs {error.name}: pip install 'maekit[onnx]'") from None
    program = trace(request, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's about itself
        graph = torch.onnx.export(
            program,
            dynamic_shapes={"images": {0: BATCH}},  # names the dimension; the program defines it
            input_names=["images"],
            output_names=["tokens", vector_name(request.encoder)],
            dynamo=True,
            verbose=False,
        )
    assert graph is not None
    data = request.config.data
    facts: dict[str, list] = {"mean": list(data.mean), "std": list(data.std)}
    if request.label_names:
        facts["class_names"] = request.label_names
    graph.model.metadata_props.update({name: json.dumps(value) for name, value in facts.items()})
    size = sum(p.numel() * p.element_size() for p in request.encoder.parameters())
    graph.save(folder / GRAPH, external_data=size > MAX_INLINE_BYTES)
    normalised = request.normalize(images)
    return ExportFiles(
        inputs={"images": normalised},
        expected=expected_features(request, normalised) | expected_photograph(request),
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
    torch.export.save(trace(request, images), folder / PROGRAM, extra_files=extra)
    normalised = request.normalize(images)
    return ExportFiles(
        inputs={"images": normalised},
        expected=expected_features(request, normalised) | expected_photograph(request),
        tolerance=1e-5,
        reader="torch.export",
        files=_files(request, PROGRAM, f"its extra file `{CLASS_NAMES}`"),
        code=_code(PROGRAM_CODE, PROGRAM_NAMES, request, as_tensor=True),
        loader=load_program,
        library="pytorch",
        part=exported_part(request),
    )


@torch.no_grad()
def trace(request: ExportRequest, images: Tensor) -> ExportedProgram:
    """Trace the encoder to a graph for any batch size."""
    normalised = request.normalize(images)
    example = normalised[:1].repeat(2, 1, 1, 1)  # torch specialises a batch of one to a constant
    shapes = {"images": {0: BATCH}}
    program = torch.export.export(Encoder(request).eval(), (example,), dynamic_shapes=shapes)
    program.example_inputs = None  # private images, and the only part that is pickled
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # local paths
    return program


def _code(code: str, names: str, request: ExportRequest, *, as_tensor: bool) -> str:
    """Code that loads the file; `names` is the code for class names."""
    vector, parts = vector_name(request.encoder), prepare_code(request, as_tensor=as_tensor)
    return code.format(**parts._asdict(), vector=vector) + names * bool(request.label_names)


def _files(request: ExportRequest, name: str, names: str) -> str:
    """Description of the file `name`; `names`: where it has the class names."""
    vit = request.encoder
    height, width = vit.patch_embed.img_size
    return FILES.format(
        name=name,
        channels=vit.patch_embed.proj.in_channels,
        height=height,
        width=width,
        tokens=vit.num_prefix_tokens + vit.patch_embed.num_patches,
        width_of_tokens=vit.embed_dim,
        vector=vector_name(vit),
        names=f", whose names are a JSON list in {names}" if vit.num_classes else "",
        pooled=f"logits of {vit.num_classes} classes"
        if vit.num_classes
        else "the class token"
        if request.pool == "token"
        else "the mean of the patch tokens",
    )
