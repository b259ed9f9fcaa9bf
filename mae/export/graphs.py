"""The encoder as a graph that runs without its Python code: ONNX, or torch.export."""

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mae.base.errors import UserError
from mae.export.check import load_onnx, load_program
from mae.export.subject import Pool, Subject, Written, expect_features, features, part_of

GRAPH, PROGRAM = "encoder.onnx", "encoder.pt2"

BATCH = torch.export.Dim("batch", min=1)

MOST_IN_ONE_FILE = 1.8e9
"""bytes of weights beyond which ONNX's own format needs them in a second file (2 GB at most)"""

FILES = """\
`{name}` takes normalised `images`, float32 [batch, {channels}, {height}, {width}] with any batch,
and gives `tokens` [batch, {tokens}, {width_of_tokens}] and `pooled`, {pooled}."""

ONNX_CODE = """\
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/encoder.onnx")
tokens, pooled = session.run(None, {"images": images})  # a float32 array, normalised
"""

PROGRAM_CODE = """\
import torch

encoder = torch.export.load("FOLDER/encoder.pt2").module()
tokens, pooled = encoder(images)  # normalised
"""


class Encoder(nn.Module):
    """`features` of one encoder, as a module to be traced."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.vit = subject.encoder
        self.pool: Pool | None = subject.pool

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """All tokens, and one vector per image."""
        return features(self.vit, images, self.pool)


def write_onnx(folder: Path, subject: Subject, images: Tensor) -> Written:
    """encoder.onnx, in the opset that the installed torch writes by itself."""
    try:
        import onnxruntime  # noqa: F401  (what cannot be checked is not written)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format onnx: needs {error.name}: pip install 'mae[onnx]'") from None
    program = trace(subject, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        graph = torch.onnx.export(
            program,
            dynamic_shapes={"images": {0: BATCH}},  # for the name: that it is so the program says
            input_names=["images"],
            output_names=["tokens", "pooled"],
            dynamo=True,
            verbose=False,
        )
    assert graph is not None
    data = subject.config.data
    graph.model.metadata_props.update(
        {"mean": json.dumps(list(data.mean)), "std": json.dumps(list(data.std))}
    )
    size = sum(p.numel() * p.element_size() for p in subject.encoder.parameters())
    graph.save(folder / GRAPH, external_data=size > MOST_IN_ONE_FILE)
    normalised = subject.normalize(images)
    return Written(
        given={"images": normalised},
        expected=expect_features(subject, normalised),
        tolerance=1e-4,
        reader="onnxruntime",
        files=_files(subject, GRAPH),
        code=ONNX_CODE,
        loader=load_onnx,
        library="onnx",
        part=part_of(subject),
    )


def write_program(folder: Path, subject: Subject, images: Tensor) -> Written:
    """encoder.pt2, for torch.export.load, AOTInductor and ExecuTorch."""
    torch.export.save(trace(subject, images), folder / PROGRAM)
    normalised = subject.normalize(images)
    return Written(
        given={"images": normalised},
        expected=expect_features(subject, normalised),
        tolerance=1e-5,
        reader="torch.export",
        files=_files(subject, PROGRAM),
        code=PROGRAM_CODE,
        loader=load_program,
        library="pytorch",
        part=part_of(subject),
    )


@torch.no_grad()
def trace(subject: Subject, images: Tensor) -> ExportedProgram:
    """The encoder's graph for any number of images at a time."""
    normalised = subject.normalize(images)
    example = normalised[:1].repeat(2, 1, 1, 1)  # a batch of one would be taken for a constant
    shapes = {"images": {0: BATCH}}
    program = torch.export.export(Encoder(subject).eval(), (example,), dynamic_shapes=shapes)
    program.example_inputs = None  # somebody's image, and in the only part that is pickled
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _files(subject: Subject, name: str) -> str:
    vit = subject.encoder
    height, width = vit.patch_embed.img_size
    return FILES.format(
        name=name,
        channels=vit.patch_embed.proj.in_channels,
        height=height,
        width=width,
        tokens=vit.num_prefix_tokens + vit.patch_embed.num_patches,
        width_of_tokens=vit.embed_dim,
        pooled=f"logits of {vit.num_classes} classes"
        if vit.num_classes
        else "the class token"
        if subject.pool == "token"
        else "the mean of the patch tokens",
    )
