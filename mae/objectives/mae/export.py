"""Export of a Masked Autoencoder's decoder beside its encoder, in timm's format.

Formats that have names for both are in `original` and `huggingface`.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from mae.export import timm
from mae.export.subject import Subject, Written, weights
from mae.objectives.mae.decoder import Decoder
from mae.objectives.mae.model import MaskedAutoencoder

DECODER_FILE = "decoder.safetensors"
DECODER = f"""
`{DECODER_FILE}` is the pretraining decoder, for pictures or for going on; timm never reads it."""


def write_timm(folder: Path, subject: Subject, images: Tensor) -> Written:
    """The encoder as any objective's and, with the decoder, decoder.safetensors."""
    written = timm.write_timm(folder, subject, images)
    if not subject.decoder:
        return written
    # In a file of its own: timm takes a state dict with a mask token for DINOv2's.
    save_file(weights(mae_of(subject).decoder), folder / DECODER_FILE, {"format": "pt"})
    return written._replace(files=written.files + DECODER)


def mae_of(subject: Subject) -> MaskedAutoencoder:
    """The model, with its decoder."""
    assert isinstance(subject.model, MaskedAutoencoder)
    return subject.model


def named_decoder(subject: Subject, format: str) -> tuple[Decoder | None, list[str]]:
    """The decoder where it goes along and `format` has names for it; remarks for the user."""
    decoder = mae_of(subject).decoder
    if not subject.decoder:
        return None, []
    if isinstance(decoder, Decoder):
        return decoder, []
    return None, [f"--format {format} has no names for a decoder of cross-attention: without it"]


@torch.no_grad()
def expect_prediction(
    model: MaskedAutoencoder, images: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(given, expected): noise whose order hides patches, and the predictions for these."""
    split = model.draw(images, torch.arange(len(images)))
    shuffle = torch.cat([split.ids_keep, split.ids_masked], dim=1)
    ranks = torch.arange(shuffle.shape[1]).float().expand(shuffle.shape)
    noise = torch.zeros_like(ranks).scatter(1, shuffle, ranks)
    given = {"noise": noise, "ids_masked": split.ids_masked}
    return given, {"prediction": model.predict(model.patchify(images), split)}


@torch.no_grad()
def resize_decoder(model: MaskedAutoencoder, old_grid: tuple[int, int]) -> None:
    """Interpolate the decoder's positions for the encoder's patches, of which there were others."""
    rows, columns = model.encoder.patch_embed.grid_size
    positions = resample_abs_pos_embed(
        model.decoder.pos_embed, [rows, columns], list(old_grid), num_prefix_tokens=0
    )
    model.decoder.pos_embed = nn.Parameter(positions, requires_grad=False)
    model.num_patches = rows * columns
