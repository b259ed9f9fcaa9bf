"""Exports of a Masked Autoencoder: for timm with its decoder, and in the original release's names.

The original names (for mmsegmentation, detectron2 and code built on these) are `cls_token`,
`blocks.N.*`, `mask_token`, `decoder_blocks.N.*` and so on, in one flat dictionary.  The export for
transformers is in `huggingface`.
"""

import json
from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from mae.base.files import save_tensors
from mae.export import timm
from mae.export.contract import (
    ExportFiles,
    ExportRequest,
    expected_features,
    refuse_options,
    weights,
)
from mae.export.original import FILES, refuse_beyond_plain, write_tensors
from mae.export.reading import expected_photograph, prepare_code
from mae.export.timm import timm_config
from mae.networks.encoders.registry import TimmEncoder
from mae.networks.vit import encoder_shape
from mae.objectives.mae.declaration import model_of
from mae.objectives.mae.decoder import Decoder
from mae.objectives.mae.loaders import load_original
from mae.objectives.mae.model import MaskedAutoencoder
from mae.pretrained_weights.description import num_heads_of
from mae.pretrained_weights.weight_files import ARGUMENTS, settings_text

DECODER_FILE = "decoder.safetensors"
DECODER = f"""
`{DECODER_FILE}` is the pretraining decoder, for reconstructions or further pretraining; timm does
not read it."""


def write_timm(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write the core's timm export and, with the decoder, decoder.safetensors."""
    written = timm.write_timm(folder, request, images)
    if not request.decoder:
        return written
    # In a file of its own: timm mistakes a state dict with a mask token for DINOv2's.
    save_tensors(weights(mae_of(request).decoder), folder / DECODER_FILE, metadata(request))
    return written._replace(files=written.files + DECODER)


def recorded_settings(request: ExportRequest) -> dict[str, int | float | bool]:
    """Settings that the tensors do not show, and reconstructions need."""
    section, model = model_of(request.config), mae_of(request)
    heads = num_heads_of(request.encoder)
    known: dict[str, int | float | bool] = {"num_heads": heads} if heads else {}
    if not request.decoder:
        return known
    return {
        **known,
        "decoder_num_heads": section.decoder_num_heads,
        "norm_pix_loss": model.norm_pix_loss,
        "mask_ratio": model.mask_ratio,
    }


def metadata(request: ExportRequest) -> dict[str, str]:
    """Metadata of a safetensors file, with the settings that `init.from` and evaluations read."""
    return {"format": "pt", ARGUMENTS: settings_text(recorded_settings(request))}


def mae_of(request: ExportRequest) -> MaskedAutoencoder:
    """Masked Autoencoder of an export."""
    assert isinstance(request.model, MaskedAutoencoder)
    return request.model


def named_decoder(request: ExportRequest, format: str) -> tuple[Decoder | None, list[str]]:
    """Decoder to export (None: excluded, or without names in `format`), and remarks to print."""
    decoder = mae_of(request).decoder
    if not request.decoder:
        return None, []
    if isinstance(decoder, Decoder):
        return decoder, []
    return None, [f"--format {format} has no names for a decoder of cross-attention: without it"]


@torch.no_grad()
def expect_prediction(
    model: MaskedAutoencoder, images: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`ExportFiles.inputs` and `.expected` for the check of an exported decoder.

    `noise` [b n] ranks the patches, visible ones first, for loaders that draw masks from noise;
    `ids_masked` are the hidden patches, `prediction` their predictions.
    """
    split = model.draw(images, torch.arange(len(images)))
    shuffle = torch.cat([split.ids_keep, split.ids_masked], dim=1)
    ranks = torch.arange(shuffle.shape[1]).float().expand(shuffle.shape)
    noise = torch.zeros_like(ranks).scatter(1, shuffle, ranks)
    inputs = {"noise": noise, "ids_masked": split.ids_masked}
    return inputs, {"prediction": model.predict(model.patchify(images), split)}


@torch.no_grad()
def resize_decoder(model: MaskedAutoencoder, old_grid: tuple[int, int]) -> None:
    """Interpolate the decoder's positions from `old_grid` to the encoder's present grid."""
    rows, columns = encoder_shape(model.encoder).grid_size
    positions = resample_abs_pos_embed(
        model.decoder.pos_embed, [rows, columns], list(old_grid), num_prefix_tokens=0
    )
    model.decoder.pos_embed = nn.Parameter(positions, requires_grad=False)
    model.num_patches = rows * columns
    model.units = model.adapter.mask_units(model.encoder).to(model.units.device)


MASK_TOKEN = """
(timm mistakes a file with a mask token for DINOv2's: export with `--no-decoder` for timm.)"""

CODE = """\
import timm
{imports}{define}
weights = torch.load("FOLDER/mae.pth", weights_only=True)["model"]
names = [name for name in weights if not name.startswith(("decoder_", "mask_token"))]
encoder = timm.create_model("{encoder}", num_classes=0, **{arguments}).eval()
encoder.load_state_dict({{name: weights[name] for name in names}})
{read}tokens = encoder.forward_features(images)
# Into the model of your tool: print(model.load_state_dict(weights, strict=False)), and read it
"""


def write_original(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write mae.safetensors and mae.pth, with the decoder or (for fine-tuning tools) without."""
    vit, model = request.encoder, mae_of(request)
    refuse_options(request, "mae", {"--pool": "its users pool themselves"})
    refuse_beyond_plain(vit, "mae")
    decoder, remarks = named_decoder(request, "mae")
    tensors = original_names(vit, decoder)
    write_tensors(folder, tensors, recorded_settings(request))
    normalised = request.normalize(images)
    inputs = {"images": normalised}
    expected = expected_features(request, normalised) | expected_photograph(request)
    if decoder:
        noise, prediction = expect_prediction(model, normalised)
        inputs, expected = inputs | noise, expected | prediction
    described = timm_config(request)
    return ExportFiles(
        inputs=inputs,
        expected=expected,
        tolerance=1e-5,
        reader="timm",
        files=FILES.format(what="encoder and decoder" if decoder else "the encoder only")
        + (MASK_TOKEN if decoder else ""),
        code=CODE.format(
            **prepare_code(request, as_tensor=True)._asdict(),
            encoder=described["architecture"],
            arguments=described["model_args"],
        ),
        loader=load_original,
        library="pytorch",
        settings=loader_settings(request),
        remarks=remarks,
    )


def loader_settings(request: ExportRequest) -> dict[str, str]:
    """Settings for `mae.objectives.mae.loaders`, which read nothing but the exported files."""
    return {
        "pool": str(request.pool),
        "prefix": str(encoder_shape(request.encoder).num_prefix_tokens),
        "decoder_num_heads": str(model_of(request.config).decoder_num_heads),
        "architecture": json.dumps(timm_config(request)),
    }


def original_names(vit: TimmEncoder, decoder: Decoder | None) -> dict[str, Tensor]:
    """State dict in the original release's names; those of the encoder are timm's."""
    tensors = weights(vit)
    if decoder is None:
        return tensors
    for name, tensor in weights(decoder).items():
        if name == "mask_token":
            tensors[name] = tensor
        elif name == "pos_embed":  # the original has a row of zeros for the class token
            tensors["decoder_pos_embed"] = torch.cat([torch.zeros_like(tensor[:, :1]), tensor], 1)
        else:
            tensors[f"decoder_{name}"] = tensor
    return tensors
