"""Shared parts of autoencoders with discrete latents: codes, their use, their figures."""

from abc import abstractmethod
from collections.abc import Mapping
from math import log2
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mae.objectives.autoencoders.backbones import encode_map
from mae.objectives.autoencoders.baselines import Baselines, fit_baselines
from mae.objectives.autoencoders.bottleneck import Bottleneck
from mae.objectives.autoencoders.discrete_declaration import perplexity, usage
from mae.objectives.autoencoders.implementation import AutoencoderImplementation, Sums
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.base import HeldOut, Objective
from mae.pictures.drawing import code_maps, to_pil
from mae.pictures.reconstruction import (
    BATCH,
    Further,
    ReconstructionReport,
    ReconstructionRequest,
    reconstruct,
)
from mae.pictures.sheet import Cell

BITS_PER_NUMBER = 8
"""bits of each number of the PCA that the codes are compared with"""


class Quantizer(Bottleneck):
    """Bottleneck whose latents are a map of codes, each one of `num_codes`."""

    num_codes: int

    @abstractmethod
    def codes(self, features: Float[Tensor, "b d gh gw"]) -> Int[Tensor, "b gh gw"]:
        """Code of each position, from 0 to num_codes - 1."""

    @abstractmethod
    def embed(self, codes: Int[Tensor, "b gh gw"]) -> Float[Tensor, "b n gh gw"]:
        """Vectors of the codes: the input of the decoder."""

    def encode(self, features: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b n gh gw"]:
        """Quantised latents: exactly the vectors of their codes."""
        return self.embed(self.codes(features))


AnyQuantizer = TypeVar("AnyQuantizer", bound=Quantizer)


class DiscreteAutoencoder(Autoencoder[AnyQuantizer], Generic[AnyQuantizer]):
    """Autoencoder with codes as latents.

    `decode_codes(codes(images))` equals the reconstruction bit for bit: both decode the vectors of
    the codes, not the straight-through sum of training, which rounds.
    """

    def codes(self, images: Shaped[Tensor, "b c h w"]) -> Int[Tensor, "b gh gw"]:
        """Codes of whole images."""
        return self.bottleneck.codes(encode_map(self.encoder, self.normalize(images)))

    def compress(self, images: Shaped[Tensor, "b c h w"]) -> Int[Tensor, "b gh gw"]:
        """Codes of whole images."""
        return self.codes(images)

    def decompress(self, stored: Int[Tensor, "b gh gw"]) -> Float[Tensor, "b c h w"]:
        """Codes → images in [0, 1]."""
        return self.decode_codes(stored)

    def decode_codes(self, codes: Int[Tensor, "b gh gw"]) -> Float[Tensor, "b c h w"]:
        """Codes → images in [0, 1]."""
        return self.decode(self.bottleneck.embed(codes))


def count_codes(codes: Int[Tensor, "..."], num_codes: int) -> Float[Tensor, " k"]:
    """Number of uses of each code, float64: exact, and so the same in any order of additions."""
    counts = torch.zeros(num_codes, dtype=torch.float64, device=codes.device)
    ones = torch.ones(codes.numel(), dtype=torch.float64, device=codes.device)
    return counts.scatter_add(0, codes.flatten(), ones)


class DiscreteImplementation(AutoencoderImplementation):
    """Implementation shared by autoencoders with codes: use of the codes, bits per pixel."""

    def fit_baselines(self, objective: Autoencoder, held_out: HeldOut) -> Baselines:
        """Mean image, and PCA of whole images with one byte per number and as many bits."""
        components = max(1, round(bits_per_image(objective) / BITS_PER_NUMBER))
        return fit_baselines(held_out, objective.img_size, components, objective.img_size)

    def further_columns(self, objective: Autoencoder, images: Tensor) -> Mapping[str, Tensor]:
        """Map of codes, a fixed colour per code."""
        assert isinstance(objective, DiscreteAutoencoder)
        return {"codes": codes_in_colour(objective, images)}

    def reconstruct(
        self, objective: Objective, request: ReconstructionRequest
    ) -> ReconstructionReport:
        """Sheet with the maps of codes, PSNR, bits per pixel."""
        assert isinstance(objective, DiscreteAutoencoder)
        return reconstruct(objective, request, further(objective, request))

    @torch.no_grad()
    def own_sums(self, objective: Autoencoder, images: Tensor, seeds: Tensor) -> Sums:
        """Uses of each code."""
        assert isinstance(objective, DiscreteAutoencoder)
        return count_codes(objective.codes(images), objective.bottleneck.num_codes).cpu().numpy()

    def own_figures(self, objective: Autoencoder, sums: Sums, images: int) -> Mapping[str, Any]:
        """Share of the codes in use, perplexity, bits per pixel without entropy coding."""
        counts = sums.tolist()
        height, width = objective.img_size
        return {
            "usage": usage(counts),
            "perplexity": perplexity(counts),
            "codes_seen": sum(counts),
            "bits_per_pixel": bits_per_image(objective) / (height * width),
        }


@torch.no_grad()
def codes_in_colour(objective: DiscreteAutoencoder, images: Tensor) -> Float[Tensor, "b 3 h w"]:
    """Codes of integer `images`, a fixed colour per code, at the images' size."""
    return code_maps(objective.codes(images), objective.bottleneck.num_codes, objective.img_size)


def further(objective: DiscreteAutoencoder, request: ReconstructionRequest) -> Further:
    """Codes as a column of the sheet of `mae reconstruct`, and bits per pixel."""
    height, width = objective.img_size
    shape, num_codes = objective.from_latent.shape, objective.bottleneck.num_codes
    bits = bits_per_image(objective)
    figures = {"codes": num_codes, "bits_per_image": bits, "bits_per_pixel": bits / height / width}
    shown = request.images[: request.count].split(BATCH)
    maps = [picture for part in shown for picture in codes_in_colour(objective, part)]
    grid = f"{shape.rows} x {shape.columns} codes of {num_codes:,}"
    note = f"codes: {grid}, with a fixed colour per code."
    name, value = "bits per pixel of the codes", figures["bits_per_pixel"]
    line = f"  {name:34}{value:7.3f}     ({grid}, without entropy coding)"
    notes = (note,) if not request.columns or "codes" in request.columns else ()
    return Further({"codes": [Cell(to_pil(one)) for one in maps]}, notes, figures, (line,))


def bits_per_image(objective: Autoencoder) -> float:
    """Bits of the codes of an image, without entropy coding."""
    assert isinstance(objective, DiscreteAutoencoder)
    shape = objective.from_latent.shape
    return shape.rows * shape.columns * log2(objective.bottleneck.num_codes)
