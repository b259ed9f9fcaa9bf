"""Is the reconstruction any good?  R² on hidden patches, beside two predictors without a model."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.networks.pixels import gather_tokens, patch_statistics, patchify, unpatchify
from mae.objectives.mae.masking import PatchSplit
from mae.objectives.mae.model import MaskedAutoencoder

SWEEPS = 24


class Explained(NamedTuple):
    """R² = 1 - squared error / squared deviation from the mean, over all hidden pixels.

    In the space of the model's target.  With `norm_pix_loss` that is each hidden patch minus its
    mean, over its deviation, and every predictor is told both.
    """

    model: float
    patch_mean: float
    """predicts each hidden patch's own true mean; 0 by construction with `norm_pix_loss`"""
    interpolation: float
    """fills in smoothly from the visible patches (`interpolate_hidden`)"""
    images: int


@torch.no_grad()
def explained_variance(
    model: MaskedAutoencoder,
    batches: Iterable[tuple[Tensor, Tensor]],
    draw: Callable[[Tensor, Tensor], PatchSplit] | None = None,
) -> Explained:
    """R² over batches of (images [b c h w], mask seeds [b]) on the model's device.

    `draw` makes masks of the two; the model's own `draw` where there is none.
    """
    errors = torch.zeros(3, dtype=torch.float64)
    values, total, squares, images_seen = 0, 0.0, 0.0, 0
    for images, seeds in batches:
        split = (draw or model.draw)(images, seeds)
        patches = model.patchify(images)
        target = model.target(patches, split.ids_masked)
        prediction = model.predict(patches, split)

        pixels = model.normalize(patches)
        mean, std = patch_statistics(gather_tokens(pixels, split.ids_masked))
        filled = patchify(interpolate_hidden(model, pixels, split.ids_keep), model.patch_size)
        smooth = gather_tokens(filled, split.ids_masked)
        if model.norm_pix_loss:
            mean, smooth = torch.zeros_like(mean), (smooth - patch_statistics(smooth)[0]) / std
        for i, guess in enumerate((prediction, mean, smooth)):
            errors[i] += (guess - target).double().square().sum().cpu()
        values += target.numel()
        total += target.double().sum().item()
        squares += target.double().square().sum().item()
        images_seen += len(images)
    r2 = 1 - errors / max(squares - total**2 / values, 1e-12)
    return Explained(r2[0].item(), r2[1].item(), r2[2].item(), images_seen)


def interpolate_hidden(model: MaskedAutoencoder, pixels: Tensor, ids_keep: Tensor) -> Tensor:
    """Images [b c h w] whose hidden pixels follow smoothly from the visible ones.

    `pixels` are normalised patches [b n values], of which only `ids_keep` are looked at.
    """
    known = torch.zeros(*pixels.shape[:2], 1, device=pixels.device).scatter(
        1, ids_keep[:, :, None], 1.0
    )
    size = model.img_size, model.patch_size
    weight = unpatchify(known.expand(-1, -1, model.patch_size[0] * model.patch_size[1]), *size)
    return fill_in(unpatchify(pixels * known, *size), weight)


def fill_in(values: Tensor, weight: Tensor) -> Tensor:
    """The smooth picture through scattered data: near-harmonic, that is, flat between the data.

    `values` [b c h w] count where `weight` [b 1 h w] is 1 and are 0 elsewhere.  Coarse to fine,
    as in pull-push (Gortler et al. 1996, "The Lumigraph", section 3.4.2): averages over squares
    twice as large fill what is open, then each open pixel moves to the mean of its neighbours.
    """
    h, w = weight.shape[-2:]
    if h == w == 1:
        return values
    # Squares at an odd edge are cut off there: sums over what exists, divided by its weight.
    sums, share = (
        F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (values, weight)
    )
    coarse = fill_in(sums / share.clamp(min=1e-12) * share.sign(), share.sign())
    picture = F.interpolate(coarse, size=(h, w), mode="bilinear", align_corners=False)
    for _ in range(SWEEPS):
        picture = values + picture * (1 - weight)
        padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
        across = padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2]
        picture = (across + padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1]) / 4
    return values + picture * (1 - weight)


def hidden_sums(model: MaskedAutoencoder, images: Tensor, seeds: Tensor) -> npt.NDArray[np.float64]:
    """Hidden values, their sum and sum of squares; squared errors, in `Explained`'s order.

    Sums of several batches add up to those of all; shares of variance do not.
    """
    explained = explained_variance(model, [(images, seeds)])
    target = model.target(model.patchify(images), model.draw(images, seeds).ids_masked).double()
    total, squares = target.sum().item(), target.square().sum().item()
    deviation = max(squares - total**2 / target.numel(), 1e-12)
    r2 = np.array([explained.model, explained.patch_mean, explained.interpolation])
    return np.array([target.numel(), total, squares, *((1 - r2) * deviation)])


def shares_explained(
    values: float, total: float, squares: float, *errors: float
) -> tuple[float, ...]:
    """R² of each predictor from the sums of `hidden_sums`."""
    deviation = max(squares - total**2 / values, 1e-12)
    return tuple(1 - error / deviation for error in errors)
