"""Weights that were found, whatever they were found as."""

from typing import NamedTuple

from torch import Tensor

from mae.initial.licence import Licence


class Geometry(NamedTuple):
    """What shapes of tensors do not tell; None: the source does not say."""

    num_heads: int | None = None
    """attention heads of the encoder"""
    grid: tuple[int, int] | None = None
    """rows and columns of patches"""
    decoder_num_heads: int | None = None


class Weights(NamedTuple):
    """One model's, in our names."""

    name: str
    """the source, as it was written"""
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]
    """empty where there is none"""
    left_out: dict[str, str]
    """tensors that are neither: why, by their own names"""
    geometry: Geometry
    sha256: str
    """of the file; for timm's names of the tensors, written as a safetensors file"""
    licence: Licence
