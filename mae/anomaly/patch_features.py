"""Features of patches: pixels, or tokens of a frozen encoder's middle layers.

An image is resized as a whole to one size, without a crop, since defects lie at edges, too; or it
is cut into tiles (`mae.anomaly.tiles`).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from mae.anomaly.tiles import Size, Tiling, ViewRule
from mae.base.errors import UserError
from mae.networks.encoders.registry import TimmEncoder, adapter_of
from mae.networks.patches import pixel_affine

PATCH = 8
"""side of a patch of pixels"""
STRIDE = 4
"""distance of neighbouring patches of pixels"""
PIXEL_SIZE = (128, 128)
"""height and width to which images, or their tiles, are resized for pixels"""
SURROUNDINGS = 15
"""side of the square whose mean is subtracted from its middle by `contrast`, in pixels"""
DARK = 0.02
"""brightness in [0, 1] that is added before the logarithm: noise of dark pixels is no contrast"""
FLAT = 0.01
"""deviation that is added to an image's own one: noise of an even image is no contrast"""
SHIFT = 2
"""maximum shift of a reference that is no difference, in pixels of the features' images"""
AT_ONCE = 2**19
"""pixels of tiles whose features are computed at a time"""

Maps = Float[Tensor, "b d gh gw"]


class PatchFeatures(NamedTuple):
    """Images → maps of features."""

    name: str
    """`pixels`, or the encoder"""
    sha256: str
    """identifies the function"""
    rule: ViewRule
    """size of its images, and the tiles of larger ones"""
    maps: Callable[[Shaped[Tensor, "b c h w"]], Maps]
    """integers [b c *size], of images or tiles → features"""
    network: nn.Module | None = None
    """holds the weights that `maps` uses"""
    layers: int = 0
    """layers of an encoder, whose features follow each other along d; 0: no encoder's"""
    prepare: Callable[[Shaped[Tensor, "b c h w"]], Shaped[Tensor, "b c h w"]] | None = None
    """applied to whole views before tiles are cut, so that these do not differ at their edges"""

    @property
    def size(self) -> Size:
        """Height and width of the images, or tiles, that `maps` takes."""
        return self.rule.size

    def in_tiles(
        self, views: Shaped[Tensor, "b c H W"], together: bool
    ) -> Iterator[tuple[range, Maps]]:
        """Numbers of some tiles of views, and their features, [tiles*b d gh gw], tile by tile.

        `together`: all tiles of a view at once, below each other, [b d tiles*gh gw].
        """
        if self.rule.tiling is None:
            yield range(1), self.maps(views)
            return
        if self.prepare:
            views = self.prepare(views)
        height, width = self.size
        crops = [
            views[..., top : top + height, left : left + width]
            for top, left in self.rule.places((views.shape[-2], views.shape[-1]))
        ]
        if together:
            yield range(len(crops)), torch.cat([self.maps(crop) for crop in crops], dim=2)
            return
        # A graph for any batch has no loop whose length depends on it.
        is_graph = torch.compiler.is_exporting()
        count = 1 if is_graph else max(1, AT_ONCE // (height * width * len(views)))
        for start in range(0, len(crops), count):
            chosen = range(start, min(start + count, len(crops)))
            yield chosen, self.maps(torch.cat([crops[number] for number in chosen]))


def pixel_features(size: Size = PIXEL_SIZE, tiling: Tiling | None = None) -> PatchFeatures:
    """Raw pixels of overlapping patches, in [0, 1]."""
    rule = ViewRule(size, (STRIDE, STRIDE), tiling)
    text = f"pixels {PATCH} {STRIDE} {rule}"
    return PatchFeatures("pixels", hashlib.sha256(text.encode()).hexdigest(), rule, pixel_maps)


def pixel_maps(images: Shaped[Tensor, "b c h w"]) -> Maps:
    """Patches of PATCH pixels, STRIDE apart; a patch is a vector of its pixels."""
    return _patches(images.float() / torch.iinfo(images.dtype).max)


def contrast_features(size: Size = PIXEL_SIZE, tiling: Tiling | None = None) -> PatchFeatures:
    """Contrast of the pixels of overlapping patches (`contrast`)."""
    rule = ViewRule(size, (STRIDE, STRIDE), tiling)
    text = f"contrast {PATCH} {STRIDE} {SURROUNDINGS} {DARK} {FLAT} {rule}"
    identity = hashlib.sha256(text.encode()).hexdigest()
    return PatchFeatures("contrast", identity, rule, contrast_maps, prepare=contrast)


def contrast_maps(images: Shaped[Tensor, "b c h w"]) -> Maps:
    """Patches of the contrast of images, or of what `contrast` gave."""
    return _patches(images if images.is_floating_point() else contrast(images))


def contrast(images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Logarithm of the pixels minus its mean over the surroundings, in the image's own deviations.

    Exposure and shading, which differ between photographs of the same thing, are gone; what is
    darker, brighter or rougher than its surroundings is left.
    """
    pixels = images.float() / torch.iinfo(images.dtype).max
    bright = (pixels + DARK).log()
    margin = SURROUNDINGS // 2
    around = F.pad(bright, (margin, margin, margin, margin), mode="reflect")
    means = F.avg_pool2d(F.avg_pool2d(around, (SURROUNDINGS, 1), 1), (1, SURROUNDINGS), 1)
    detail = bright - means
    return detail / (detail.square().mean((1, 2, 3), keepdim=True).sqrt() + FLAT)


def _patches(pixels: Float[Tensor, "b c h w"]) -> Maps:
    rows, columns = ((side - PATCH) // STRIDE + 1 for side in pixels.shape[2:])
    return F.unfold(pixels, PATCH, stride=STRIDE).unflatten(2, (rows, columns))


def vit_features(
    vit: TimmEncoder,
    mean: Sequence[float],
    std: Sequence[float],
    bits: int,
    layers: Sequence[int] | None,
    name: str,
    sha256: str,
    tiling: Tiling | None = None,
) -> PatchFeatures:
    """Tokens of some blocks of an encoder of timm's, each of length 1, averaged over 3 x 3.

    `layers`: numbers of the blocks, from 1; None: those at a half and three quarters of the depth,
    since the last ones serve pretraining (Roth et al. 2022, "Towards Total Recall in Industrial
    Anomaly Detection", section 3.1).  Raises UserError for blocks that do not exist.
    """
    adapter = adapter_of(vit)
    shape, depth = adapter.shape(vit), len(adapter.blocks(vit))
    chosen = sorted(layers or {max(1, depth // 2), max(1, 3 * depth // 4)})
    if chosen[0] < 1 or chosen[-1] > depth:
        raise UserError(f"--layers: {name} has blocks 1 to {depth}")
    affine = pixel_affine(mean, std, shape.in_chans, 2**bits - 1)
    scale, shift = affine.scale.view(-1, 1, 1), affine.shift.view(-1, 1, 1)

    @torch.no_grad()
    def maps(images: Shaped[Tensor, "b c h w"]) -> Maps:
        inputs = images.float() * scale.to(images.device) + shift.to(images.device)
        found = adapter.maps(vit, inputs, [layer - 1 for layer in chosen])
        # Maps of a hierarchical encoder's blocks differ in size: they are enlarged to the finest.
        unit = [F.interpolate(F.normalize(one, dim=1), found[0].shape[2:]) for one in found]
        whole = torch.cat(unit, dim=1)
        return F.avg_pool2d(whole, 3, stride=1, padding=1, count_include_pad=False)

    rule = ViewRule(shape.img_size, adapter.map_stride(vit, chosen[0] - 1), tiling)
    text = f"{sha256} {chosen} {list(mean)} {list(std)}" + (f" {tiling}" if tiling else "")
    identity = hashlib.sha256(text.encode()).hexdigest()
    return PatchFeatures(f"{name}, blocks {chosen}", identity, rule, maps, vit, len(chosen))


def difference(features: PatchFeatures) -> PatchFeatures:
    """Features of an image minus those of its reference, images of a pair [b 2c h w].

    Pairs are never aligned to the pixel: a patch is compared with the most similar of the patches
    of the reference that are up to SHIFT pixels off, or of an encoder's its 3 x 3 neighbours.
    """

    def maps(pairs: Shaped[Tensor, "b c2 h w"]) -> Maps:
        image, reference = pairs.chunk(2, dim=1)
        own, height, width = features.maps(image), *image.shape[-2:]
        if features.layers:
            reference = F.pad(features.maps(reference), (1, 1, 1, 1), mode="replicate")
            reach, (height, width) = 1, own.shape[-2:]
        else:
            if features.prepare and not reference.is_floating_point():
                reference = features.prepare(reference)
            white = 1 if reference.is_floating_point() else torch.iinfo(reference.dtype).max
            edges = (SHIFT, SHIFT, SHIFT, SHIFT)
            reference, reach = F.pad(reference.float() / white, edges, mode="replicate"), SHIFT
        best = torch.full_like(own[:, :1], torch.inf)
        nearest = torch.zeros_like(own)
        for row, column in product(range(2 * reach + 1), repeat=2):
            moved = reference[..., row : row + height, column : column + width]
            change = own - (moved if features.layers else _patches(moved))
            length = change.square().sum(1, keepdim=True)
            nearest = torch.where(length < best, change, nearest)
            best = torch.minimum(length, best)
        return nearest

    def prepare(pairs: Shaped[Tensor, "b c2 h w"]) -> Tensor:
        assert features.prepare is not None
        return torch.cat([features.prepare(one) for one in pairs.chunk(2, dim=1)], dim=1)

    identity = hashlib.sha256(f"{features.sha256} difference {SHIFT}".encode()).hexdigest()
    return features._replace(
        name=f"{features.name} minus reference",
        sha256=identity,
        maps=maps,
        prepare=prepare if features.prepare else None,
    )
