"""Exports of a sparse autoencoder of tokens: for SAELens, and as graphs in both directions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from mae import __version__
from mae.base.files import save_tensors, write_json
from mae.export.contract import ExportFiles, ExportRequest, refuse_options
from mae.export.programs import require_onnx, trace_module, write_onnx_program
from mae.objectives.autoencoders.export import Method, in_two_batches, open_onnx
from mae.objectives.sae.declaration import sae_model
from mae.objectives.sae.dictionary import TokenDictionary
from mae.objectives.sae.model import TokenSparseAutoencoder

WEIGHTS, SETTINGS = "sae_weights.safetensors", "cfg.json"
"""files of SAELens"""

SAELENS_VERSION = "6.0.0"
"""first version of SAELens whose settings have these names"""

MOST_FLIPPED = 1e-4
"""share of the latents that may be zero here and not there: rounding decides at the threshold"""

TOKENS = """\
Tokens are the encoder's patch tokens ({layer}), float32 [batch, {tokens}, {width}]; the encoder is
not in the folder."""

SAELENS_FILES = f"""\
`{WEIGHTS}` holds W_enc [{{width}}, {{latents}}], b_enc, W_dec, b_dec and threshold;
`{SETTINGS}` the settings, as SAELens from version 6 reads them (architecture jumprelu). Centre and
scale of the tokens are folded in; rows of W_dec have length 1."""

SAELENS_CODE = """\
import json

import torch
from safetensors.torch import load_file

w = load_file("FOLDER/sae_weights.safetensors")  # or: sae_lens.SAE.load_from_disk("FOLDER")
tokens = torch.zeros(1, {tokens}, {width})  # the encoder's patch tokens
scores = (tokens - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
latents = torch.where(scores > w["threshold"], scores, 0.0)
again = latents @ w["W_dec"] + w["b_dec"]
"""

GRAPH_FILES = """\
`encoder{suffix}` takes `tokens` and gives `latents`, [batch, {tokens}, {latents}];
`decoder{suffix}` takes these and gives the `tokens` again."""

ONNX_CODE = """\
import numpy as np
import onnxruntime

encoder = onnxruntime.InferenceSession("FOLDER/encoder.onnx")
decoder = onnxruntime.InferenceSession("FOLDER/decoder.onnx")
tokens = np.zeros([1, {tokens}, {width}], np.float32)  # the encoder's patch tokens
(latents,) = encoder.run(None, {{"tokens": tokens}})
(again,) = decoder.run(None, {{"latents": latents}})
"""

TORCH_CODE = """\
import torch

encoder = torch.export.load("FOLDER/encoder.pt2").module()
decoder = torch.export.load("FOLDER/decoder.pt2").module()
tokens = torch.zeros(1, {tokens}, {width})  # the encoder's patch tokens
latents = encoder(tokens)
again = decoder(latents)
"""


class Checked(NamedTuple):
    """Dictionary of the request's model, and what it computes of the check images."""

    dictionary: TokenDictionary
    tokens: Tensor
    latents: Tensor
    again: Tensor


@torch.no_grad()
def checked(request: ExportRequest, images: Tensor) -> Checked:
    """Tokens, latents and reconstruction of the check images."""
    model = request.model
    assert isinstance(model, TokenSparseAutoencoder)
    tokens = model.tokens(images).float()
    latents = model.dictionary.latents(tokens)
    return Checked(model.dictionary, tokens, latents, model.dictionary.decode(latents))


def write_saelens(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write weights and settings for SAELens."""
    refuse(request, "saelens")
    found, model, data = checked(request, images), sae_model(request.config), request.config.data
    folded = found.dictionary.folded()
    tensors = {
        "W_enc": folded.encoder.T,
        "b_enc": folded.encoder_bias,
        "W_dec": folded.decoder,
        "b_dec": folded.decoder_bias,
        "threshold": folded.threshold.expand(len(folded.encoder)),
    }
    save_tensors(
        {name: one.contiguous().clone() for name, one in tensors.items()}, folder / WEIGHTS
    )
    settings = {
        "architecture": "jumprelu",
        "d_in": found.tokens.shape[2],
        "d_sae": found.latents.shape[2],
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": SAELENS_VERSION,
            "sae_lens_training_version": None,
            "trained_by": f"mae {__version__}",
            "model_name": model.encoder.name,
            "hook_name": f"blocks.{model.layer - 1}" if model.layer else "norm",
            "k": model.k,
            "img_size": list(request.model.img_size),
            "mean": list(data.mean),
            "std": list(data.std),
        },
    }
    write_json(folder / SETTINGS, settings)
    files = described(request, found, SAELENS_FILES, SAELENS_CODE, load_saelens)
    return files._replace(reader="the formula of SAELens", library="saelens")


def write_onnx(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write encoder.onnx and decoder.onnx.  Raises UserError as `require_onnx`."""
    refuse(request, "onnx")
    require_onnx()
    found = checked(request, images)
    for name, method, example, given, made in graphs(found):
        write_onnx_program(
            folder / f"{name}.onnx",
            trace_module(Method(found.dictionary, method), example),
            inputs=given,
            outputs=[made],
            metadata={"layer": sae_model(request.config).layer},
        )
    files = described(request, found, GRAPH_FILES, ONNX_CODE, load_onnx, ".onnx")
    return files._replace(tolerance=1e-4, reader="onnxruntime", library="onnx")


def write_programs(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write encoder.pt2 and decoder.pt2, for torch.export.load."""
    refuse(request, "torch")
    found = checked(request, images)
    for name, method, example, _, _ in graphs(found):
        program = trace_module(Method(found.dictionary, method), example)
        torch.export.save(program, folder / f"{name}.pt2")
    files = described(request, found, GRAPH_FILES, TORCH_CODE, load_programs, ".pt2")
    return files._replace(reader="torch.export")


class Graph(NamedTuple):
    """File, method of the dictionary, example, and names of input and output."""

    name: str
    method: str
    example: Tensor
    given: str
    made: str


def graphs(found: Checked) -> list[Graph]:
    """The two graphs: tokens → latents, latents → tokens."""
    return [
        Graph("encoder", "latents", found.tokens, "tokens", "latents"),
        Graph("decoder", "decode", found.latents, "latents", "tokens"),
    ]


def refuse(request: ExportRequest, format: str) -> None:
    """Raise UserError for options that choose a part of the model."""
    reason = "it exports the autoencoder of the tokens"
    refuse_options(request, format, {"--pool": reason, "--no-decoder": reason})


def described(
    request: ExportRequest,
    found: Checked,
    files: str,
    code: str,
    loader: Callable,
    suffix: str = "",
) -> ExportFiles:
    """Description of the files, and the data of their check."""
    layer = sae_model(request.config).layer
    facts = {
        "tokens": found.tokens.shape[1],
        "width": found.tokens.shape[2],
        "latents": found.latents.shape[2],
        "layer": f"after block {layer}, before the final norm" if layer else "after the final norm",
        "suffix": suffix,
    }
    return ExportFiles(
        inputs={"tokens": found.tokens, "latents": found.latents},
        expected={"latents": found.latents, "again": found.again},
        tolerance=1e-5,
        reader="plain torch",
        files=files.format(**facts),
        code=code.format(**facts),
        loader=loader,
        library="pytorch",
        part="sparse autoencoder",
        images=TOKENS.format(**facts),
    )


Run = Callable[[Tensor], Tensor]


def load_saelens(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Latents and reconstruction by SAELens' formula, from the files alone."""
    w, cfg = load_file(folder / WEIGHTS), json.loads((folder / SETTINGS).read_text())
    assert (cfg["d_in"], cfg["d_sae"]) == w["W_enc"].shape and cfg["apply_b_dec_to_input"]

    def encode(tokens: Tensor) -> Tensor:
        scores = (tokens - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        return torch.relu(scores) * (scores > w["threshold"])

    return compare(encode, lambda latents: latents @ w["W_dec"] + w["b_dec"], inputs)


def load_onnx(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Latents and reconstruction through onnxruntime."""
    return compare(open_onnx(folder / "encoder.onnx"), open_onnx(folder / "decoder.onnx"), inputs)


def load_programs(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Latents and reconstruction through torch.export."""
    encoder = torch.export.load(folder / "encoder.pt2").module()
    decoder = torch.export.load(folder / "decoder.pt2").module()
    return compare(encoder, decoder, inputs)


def compare(encode: Run, decode: Run, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs in both directions, each in two batches: the graphs must take any batch size."""
    latents, ours = in_two_batches(encode, inputs["tokens"]), inputs["latents"]
    is_flipped = (latents > 0) != (ours > 0)
    if is_flipped.float().mean() <= MOST_FLIPPED:
        latents = torch.where(is_flipped, ours, latents)
    return {"latents": latents, "again": in_two_batches(decode, ours)}
