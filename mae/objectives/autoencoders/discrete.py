"""Shared parts of autoencoders with discrete latents: codes, their use, their figures."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import log2
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mae.networks.encoders.registry import is_encoder
from mae.objectives.autoencoders.backbones import encode_map
from mae.objectives.autoencoders.baselines import Baselines, fit_baselines
from mae.objectives.autoencoders.bottleneck import Bottleneck
from mae.objectives.autoencoders.code_level import ONE_LEVEL, CodeLevel
from mae.objectives.autoencoders.discrete_declaration import code_figures
from mae.objectives.autoencoders.implementation import AutoencoderImplementation, Sums
from mae.objectives.autoencoders.jpeg import has_jpeg, jpeg_psnr
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.base import Objective
from mae.objectives.capabilities import ImageCoding, LatentArray
from mae.objectives.implementation import HeldOut
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
    """Bottleneck whose latents are codes, each one of `num_codes`, in a map or several."""

    num_codes: int
    """number of different codes of each level"""
    levels: ClassVar[Sequence[CodeLevel]] = ONE_LEVEL
    """as the declaration's"""

    @abstractmethod
    def codes(self, features: Float[Tensor, "b d gh gw"]) -> Int[Tensor, "b ..."]:
        """Codes from 0 to num_codes - 1: of one level, one per position, [b gh gw]."""

    @abstractmethod
    def embed(self, codes: Int[Tensor, "b ..."]) -> Float[Tensor, "b n gh gw"]:
        """Vectors of the codes: the input of the decoder."""

    def encode(self, features: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b n gh gw"]:
        """Quantised latents: exactly the vectors of their codes."""
        return self.embed(self.codes(features))

    def arrays(self, features: Float[Tensor, "b d gh gw"]) -> dict[str, LatentArray]:
        """Map of each level's codes; the finest is the main one."""
        maps = self.split(self.codes(features))
        last = len(maps) - 1
        return {
            level.name if place < last else "": LatentArray(codes, level.words, self.num_codes)
            for place, (level, codes) in enumerate(zip(self.levels, maps, strict=True))
        }

    def split(self, codes: Int[Tensor, "b ..."]) -> Sequence[Int[Tensor, "b _ _"]]:
        """Map of the codes of each level."""
        return (codes,)

    def join(self, maps: Sequence[Int[Tensor, "b _ _"]]) -> Int[Tensor, "b ..."]:
        """Codes from the levels' maps: the reverse of `split`."""
        (codes,) = maps
        return codes


AnyQuantizer = TypeVar("AnyQuantizer", bound=Quantizer)


class DiscreteAutoencoder(Autoencoder[AnyQuantizer], Generic[AnyQuantizer]):
    """Autoencoder with codes as latents.

    `decode_codes(codes(images))` equals the reconstruction bit for bit: both decode the vectors of
    the codes, not the straight-through sum of training, which rounds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.jpeg_psnrs: dict[int, float] = {}
        """PSNR of the held-out images' JPEGs by seed, filled in by the first evaluation"""

    def codes(self, images: Shaped[Tensor, "b c h w"]) -> Int[Tensor, "b ..."]:
        """Codes of whole images."""
        return self.bottleneck.codes(encode_map(self.encoder, self.normalize(images)))

    def compress(self, images: Shaped[Tensor, "b c h w"]) -> Int[Tensor, "b ..."]:
        """Codes of whole images."""
        return self.codes(images)

    def decompress(self, stored: Int[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """Codes → images in [0, 1]."""
        return self.decode_codes(stored)

    def decode_codes(self, codes: Int[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """Codes → images in [0, 1]."""
        return self.decode(self.bottleneck.embed(codes))

    def coding(self) -> ImageCoding:
        """Images as maps of codes, for compressed files; networks of convolutions take any size."""
        quantizer, shape = self.bottleneck, self.from_latent.shape
        height, width = self.img_size
        finest = height // shape.rows, width // shape.columns
        return ImageCoding(
            num_codes=quantizer.num_codes,
            encode=lambda images: quantizer.split(self.codes(images)),
            decode=lambda maps: self.decode_codes(quantizer.join(maps)),
            strides=[(finest[0] * one.stride, finest[1] * one.stride) for one in quantizer.levels],
            any_size=not is_encoder(self.encoder),
        )

    def grid(self, level: CodeLevel) -> tuple[int, int]:
        """Rows and columns of a level's map of codes."""
        shape = self.from_latent.shape
        return shape.rows // level.stride, shape.columns // level.stride


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
        """Map of each level's codes, a fixed colour per code."""
        assert isinstance(objective, DiscreteAutoencoder)
        return codes_in_colour(objective, images)

    def reconstruct(
        self, objective: Objective, request: ReconstructionRequest
    ) -> ReconstructionReport:
        """Sheet with the maps of codes, PSNR, bits per pixel."""
        assert isinstance(objective, DiscreteAutoencoder)
        return reconstruct(objective, request, further(objective, request))

    @torch.no_grad()
    def own_sums(self, objective: Autoencoder, images: Tensor, seeds: Tensor) -> Sums:
        """Sum of JPEG's PSNR; uses of each code, level by level."""
        assert isinstance(objective, DiscreteAutoencoder)
        quantizer = objective.bottleneck
        maps = quantizer.split(objective.codes(images))
        uses = torch.stack([count_codes(one, quantizer.num_codes) for one in maps])
        return np.concatenate([[jpeg_sum(objective, images, seeds)], uses.flatten().cpu().numpy()])

    def own_figures(self, objective: Autoencoder, sums: Sums, images: int) -> Mapping[str, Any]:
        """Share of the codes in use, perplexity, bits per pixel without entropy coding."""
        assert isinstance(objective, DiscreteAutoencoder)
        height, width = objective.img_size
        levels = objective.bottleneck.levels
        found: dict[str, Any] = {}
        if has_jpeg(objective.in_chans, 8 if objective.white == 255 else 16):
            found["psnr_jpeg"] = float(sums[0]) / images
        for level, counts in zip(levels, np.split(sums[1:], len(levels)), strict=True):
            bits = level_bits(objective, level)
            found |= code_figures(level, counts.tolist())
            found[level.key("bits_per_pixel")] = bits / (height * width)
        return found | {"bits_per_pixel": bits_per_image(objective) / (height * width)}


def jpeg_sum(objective: DiscreteAutoencoder, images: Tensor, seeds: Tensor) -> float:
    """Sum over images of the PSNR of JPEGs with as many bits; 0 where JPEG cannot store them.

    Computed once per image and start of a run: it does not change.
    """
    if not has_jpeg(objective.in_chans, torch.iinfo(images.dtype).bits):
        return 0.0
    bits, known = bits_per_image(objective), objective.jpeg_psnrs
    for image, seed in zip(images.cpu(), seeds.tolist(), strict=True):
        if seed not in known:
            known[seed] = jpeg_psnr(image.float() / 255, bits)
    return sum(known[seed] for seed in seeds.tolist())


@torch.no_grad()
def codes_in_colour(
    objective: DiscreteAutoencoder, images: Tensor
) -> dict[str, Float[Tensor, "b 3 h w"]]:
    """Codes of integer `images`, a fixed colour per code, at the images' size, by level."""
    quantizer = objective.bottleneck
    maps = quantizer.split(objective.codes(images))
    return {
        level.words: code_maps(one, quantizer.num_codes, objective.img_size)
        for level, one in zip(quantizer.levels, maps, strict=True)
    }


def further(objective: DiscreteAutoencoder, request: ReconstructionRequest) -> Further:
    """Codes as a column of the sheet of `mae reconstruct`, and bits per pixel."""
    height, width = objective.img_size
    num_codes, levels = objective.bottleneck.num_codes, objective.bottleneck.levels
    bits = bits_per_image(objective)
    figures = {"codes": num_codes, "bits_per_image": bits, "bits_per_pixel": bits / height / width}
    shown = request.images.split(BATCH)
    sides = [torch.cat(list(codes_in_colour(objective, one).values()), dim=3) for one in shown]
    grids = [" x ".join(map(str, objective.grid(level))) for level in levels]
    grid = f"{' and '.join(grids)} codes of {num_codes:,}"
    note = f"codes: {grid}, with a fixed colour per code."
    name, value = "bits per pixel of the codes", figures["bits_per_pixel"]
    line = f"  {name:34}{value:7.3f}     ({grid}, without entropy coding)"
    notes = (note,) if not request.columns or "codes" in request.columns else ()
    cells = [Cell(to_pil(one)) for part in sides for one in part]
    return Further({"codes": cells}, notes, figures, (line,))


def bits_per_image(objective: Autoencoder) -> float:
    """Bits of the codes of an image, without entropy coding."""
    assert isinstance(objective, DiscreteAutoencoder)
    return sum(level_bits(objective, level) for level in objective.bottleneck.levels)


def level_bits(objective: DiscreteAutoencoder, level: CodeLevel) -> float:
    """Bits of a level's codes of an image, without entropy coding."""
    rows, columns = objective.grid(level)
    return rows * columns * log2(objective.bottleneck.num_codes)
