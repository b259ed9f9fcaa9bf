"""Scaling and turning of latents and images alike (EQ-VAE: Kouzelis et al. 2025, 2502.09509).

Every image has a scale and a turn of its own; the result has the size of the input, with the
reduced image mirrored at its borders, so that shapes are static and nothing depends on the others.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mae.base.tensor_hashing import uniforms

SMALLEST = 0.25
"""smallest scale, section 3.3 of the paper"""


def draw_transforms(
    seeds: Int[Tensor, " b"], share: float, is_square: bool
) -> Float[Tensor, "b 2"]:
    """Scale and number of quarter turns of each image; (1, 0) for all but `share` of them.

    Images that are not square are turned by half turns only.
    """
    chosen, size, turn = uniforms(seeds, 3).unbind(dim=1)
    scale = SMALLEST + (1 - SMALLEST) * size
    turns = (4 * turn).floor() if is_square else 2 * (2 * turn).floor()
    is_chosen = chosen < share
    return torch.stack(
        [torch.where(is_chosen, scale, 1.0), torch.where(is_chosen, turns, 0.0)], dim=1
    )


def transform(
    maps: Float[Tensor, "b c h w"], transforms: Float[Tensor, "b 2"]
) -> Float[Tensor, "b c h w"]:
    """Scaled and turned maps; those of scale 1 and no turn are unchanged bit for bit."""
    scale, turns = transforms.to(maps.dtype).unbind(dim=1)
    rows, columns = (resampling(scale, side) for side in maps.shape[2:])
    made = torch.einsum("bik,bckl,bjl->bcij", rows, maps, columns)
    choice = turns.view(-1, 1, 1, 1)
    for turn in (1, 2, 3) if maps.shape[2] == maps.shape[3] else (2,):
        made = torch.where(choice == turn, torch.rot90(made, turn, (2, 3)), made)
    unchanged = ((scale == 1) & (turns == 0)).view(-1, 1, 1, 1)
    return torch.where(unchanged, maps, made)


def resampling(scale: Float[Tensor, " b"], side: int) -> Float[Tensor, "b side side"]:
    """Matrices that reduce `side` numbers by `scale` about their centre, mirrored beyond the ends.

    A triangle filter as wide as a new pixel, so that fine detail does not alias.
    """
    places = torch.arange(side, device=scale.device, dtype=scale.dtype) + 0.5
    wanted = (places - side / 2) / scale[:, None] + side / 2
    wanted = torch.remainder(wanted, 2 * side)[:, :, None]
    weights = torch.zeros((), device=scale.device, dtype=scale.dtype)
    # The last two count where fewer than 4 numbers, the widest triangle's half, are mirrored.
    near = (places, -places, 2 * side - places, 2 * side + places)
    for mirrored in (*near, places - 2 * side, 4 * side - places):
        weights = weights + F.relu(1 - scale[:, None, None] * (wanted - mirrored).abs())
    return weights / weights.sum(dim=2, keepdim=True)
