"""Small sparse autoencoder on the tokens of an untrained encoder."""

import torch
from torch import Tensor

from mae.objectives.base import StepEnd
from mae.objectives.sae.dictionary import TokenDictionary
from mae.objectives.sae.model import TokenSparseAutoencoder
from tests.objectives.autoencoders.small import build, pictures

WIDTH, LATENTS = 16, 40


def small_sae(channels: int = 3, bits: int = 8, k: int = 4) -> TokenSparseAutoencoder:
    """16 patches of images of 16 px, tokens of 16 numbers, 40 latents; after its first steps."""
    encoder = build("ae", channels, bits, backbone="vit")
    torch.manual_seed(0)
    dictionary = TokenDictionary(
        WIDTH,
        LATENTS,
        k=k,
        group=2,
        aux_weight=1 / 32,
        aux_k=8,
        dead_after=1000,
        threshold_decay=0.9,
    )
    model = TokenSparseAutoencoder(encoder, dictionary).eval()
    for number in (1, 2):
        take_step(model, pictures(8, channels, bits), number)
    return model


@torch.no_grad()
def take_step(model: TokenSparseAutoencoder, images: Tensor, number: int) -> None:
    """Update the buffers by a step that changes no weights."""
    output = model(images, None, torch.zeros(()))
    model.after_step(StepEnd(number, 0, torch.tensor(False), output.carry))
