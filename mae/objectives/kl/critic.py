"""Patch critic (Isola et al. 2017, arXiv:1611.07004, section 3.2.2) with hinge losses.

Group normalisation stands for the paper's batch normalisation, which would make the critic depend
on how a batch is split into processes and micro-batches.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mae.objectives.autoencoders.adversarial import frozen_call
from mae.objectives.base import full_precision

RISE = 0.1
"""share of the run within which the generator's weight rises"""

GROUPS = 8
"""groups of the group normalisation; the width must be a multiple"""


class PatchCritic(nn.Sequential):
    """Images → a score for each of many overlapping patches: high for original ones."""

    def __init__(self, in_chans: int, width: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(in_chans, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for inner, outer in ((width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(inner, outer, 4, 2, 1), nn.GroupNorm(GROUPS, outer)]
            layers += [nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(4 * width, 4 * width, 3, 1, 1), nn.GroupNorm(GROUPS, 4 * width)]
        super().__init__(*layers, nn.LeakyReLU(0.2), nn.Conv2d(4 * width, 1, 3, 1, 1))


def adversarial_losses(
    critic: nn.Module,
    originals: Float[Tensor, "b c h w"],
    made: Float[Tensor, "b c h w"],
    weight: Float[Tensor, ""],
) -> Mapping[str, Float[Tensor, ""]]:
    """Hinge losses (Lim and Ye 2017, arXiv:1705.02894) of both players, for one sum.

    The generator's term, times `weight`, reaches only the images that it made: it goes through the
    critic's detached weights.  The critic's term reaches only the critic: the images are detached.
    """
    real, fake = critic(originals), critic(made.detach())
    score = frozen_call(critic, made)
    with full_precision(made.device):
        real, fake, score = (one.to(originals.dtype) for one in (real, fake, score))
        loss = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        return {"generator": -weight.to(score.dtype) * score.mean(), "critic": loss}


def generator_weight(weight: float, start: float, progress: Float[Tensor, ""]) -> Tensor:
    """0 until the share `start` of the run, then rising to `weight` within `RISE` of the run."""
    return weight * torch.clamp((progress - start) / min(RISE, 1 - start), 0, 1)
