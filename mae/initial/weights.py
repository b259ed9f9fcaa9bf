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
    eps: float | None = None
    """of the LayerNorms"""
    activation: str | None = None
    """of the MLPs, as `activation_of` names it"""


class Normalisation(NamedTuple):
    """Of the images that weights were trained on, one number per channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Weights(NamedTuple):
    """One model's, in our names."""

    name: str
    """the source, as it was written"""
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]
    """empty where there is none"""
    left_out: dict[str, str]
    """tensors that are neither: why, by their own names"""
    notes: tuple[str, ...]
    """which of several were taken"""
    geometry: Geometry
    sha256: str
    """of the file; for timm's names of the tensors, written as a safetensors file"""
    licence: Licence
    normalisation: Normalisation | None = None
    """None: the source does not say"""
    history: str | None = None
    """what the training was, of a run"""
