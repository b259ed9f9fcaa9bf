"""Optional methods of an objective, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float, Int, Shaped
from torch import Tensor

CAPABILITIES = (
    "encode",
    "reconstruct",
    "latents",
    "decode",
    "sample",
    "trivial_samples",
    "logits",
    "denoise",
    "image_latents",
    "patch_latents",
)
"""methods of an objective that use its weights, besides `forward`; only `encode` is required.

Their arguments: `reconstruct(images, noise)` → `Reconstruction`, `logits(images)` → class scores
[b classes], `latents(images)` → latents of whole images without noise, [b …], the input of
`decode(latents)` → images [b c h w] in [0, 1] (see `Declaration.latent_path`), `sample(seeds)` →
one such image per seed, a function of that seed alone; `sample` may take a `temperature`, by
default 1;
`trivial_samples(images, seeds)`: the same from a trivial model that is fitted to integer training
images, the baseline of `sample` (see `Declaration.trivial_samples`);
`denoise(images)`: noisy integer images of any size → clean ones [b c h w] in [0, 1];
`image_latents(images)` → `ImageLatents`, for other models to be trained on;
`patch_latents(images)` → `PatchLatents`, of sparse autoencoders.  Besides, `coding()` gives an
`ImageCoding`, for objectives with codes.
"""


class Reconstruction(NamedTuple):
    """Reconstructed images, in the units of the source: [0, 1]."""

    pasted: Float[Tensor, "b c h w"]
    """reconstruction; where parts were hidden, with the visible parts pasted in"""
    mask: Float[Tensor, "b c h w"] | None = None
    """1 = hidden pixel, 0 = visible; None: nothing is hidden"""
    inputs: Float[Tensor, "b c h w"] | None = None
    """corrupted images that the model got, not clipped; None: it got the originals"""


class LatentArray(NamedTuple):
    """Array of each image that is stored for other models."""

    values: Tensor
    """[b …]: floats, channels first, or integer codes from 0 on"""
    what: str
    """meaning, for people"""
    num_codes: int = 0
    """number of different codes; 0: the values are no codes"""


class ImageLatents(NamedTuple):
    """Latents of images as arrays to be stored."""

    arrays: Mapping[str, LatentArray]
    """name → array; "" is the main one, "std" the standard deviation of floats"""
    scale: Mapping[str, Any] = {}
    """diffusers' settings on the scale of the latents, where others depend on them already; empty:
    to be measured"""


class PatchLatents(NamedTuple):
    """Sparse latents of patches, and the vectors that they stand for."""

    latents: Float[Tensor, "b t n"]
    """sizes, 0 where a latent is not active"""
    tokens: Float[Tensor, "b t d"]
    """vectors that the autoencoder reconstructs: tokens, or the patches' pixels"""
    again: Float[Tensor, "b t d"]
    """their reconstructions"""
    grid: tuple[int, int]
    """rows and columns of the t patches; (1, 1): latents are of whole images"""


class Probabilities(NamedTuple):
    """Probabilities of some codes of each image, given those that are known already."""

    positions: Sequence[int]
    """of the codes among all codes of an image: coarse maps first, each by rows"""
    values: Float[Tensor, "b m k"]
    """float64 on the CPU, equal in every process of the same build of torch"""


CodeSteps = Generator[Probabilities, Int[Tensor, "b m"], None]
"""yields the probabilities of further codes, and is sent these codes, until all are known"""


class ImageCoding(NamedTuple):
    """Images as codes and back, for compressed files: result of an objective's `coding()`."""

    num_codes: int
    """number of different codes in each map"""
    encode: Callable[[Shaped[Tensor, "b c h w"]], Sequence[Int[Tensor, "b _ _"]]]
    """integer images → maps of codes, the coarsest first"""
    decode: Callable[[Sequence[Int[Tensor, "b _ _"]]], Float[Tensor, "b c h w"]]
    """maps of codes → images in [0, 1]"""
    strides: Sequence[tuple[int, int]]
    """rows and columns of pixels per position of each map: sides must be multiples of the first"""
    any_size: bool
    """takes images of all such sizes, not only of `Objective.img_size`"""
    predict: Callable[[int], CodeSteps] | None = None
    """probabilities of the codes of that many images of `img_size`; None: codes are taken as
    independent"""
