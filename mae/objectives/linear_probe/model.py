"""The head of the paper's linear probe, and its training on a frozen encoder."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.features import preferred_feature
from mae.objectives.base import Output, StepEnd, full_precision
from mae.objectives.frozen import Probe

EPS = 1e-6
MOMENTUM = 0.1
"""share of a group's statistics in the running ones, as in nn.BatchNorm1d"""


class GroupedNorm(nn.Module):
    """BatchNorm without weights, over fixed groups of images in the order of the samples.

    In training each group is normalised by its own mean and variance, so that the result does not
    depend on how a batch is split into processes and micro-batches; in evaluation by the running
    statistics, which are nn.BatchNorm1d's when it is given one group after the other.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, vectors: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Normalise by the running statistics."""
        return (vectors - self.running_mean) * (self.running_var + EPS).rsqrt()

    def normalize_groups(
        self, vectors: Float[Tensor, "b d"], size: int
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "groups 2 d"]]:
        """Vectors normalised by group; the statistics of each group: mean, unbiased variance."""
        groups = vectors.unflatten(0, (-1, size))
        var, mean = torch.var_mean(groups, dim=1, correction=0, keepdim=True)
        normal = (groups - mean) * (var + EPS).rsqrt()
        unbiased = var * (size / max(size - 1, 1))
        return normal.flatten(0, 1), torch.cat([mean, unbiased], dim=1)

    @torch.no_grad()
    def update(self, statistics: Float[Tensor, "groups 2 d"], skipped: Tensor) -> None:
        """Take in the statistics of groups, one after the other; nothing where `skipped`."""
        mean, var = self.running_mean, self.running_var
        for group in statistics:
            mean, var = mean.lerp(group[0], MOMENTUM), var.lerp(group[1], MOMENTUM)
        self.running_mean.copy_(torch.where(skipped, self.running_mean, mean))
        self.running_var.copy_(torch.where(skipped, self.running_var, var))


class ProbeHead(nn.Module):
    """BatchNorm without weights, then a linear layer: N(0, 0.01) weights, no bias at first."""

    def __init__(self, width: int, classes: int, seed: int) -> None:
        super().__init__()
        self.norm = GroupedNorm(width)
        self.linear = nn.Linear(width, classes)
        chance = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.linear.weight, std=0.01, generator=chance)
        nn.init.zeros_(self.linear.bias)

    def forward(self, vectors: Float[Tensor, "b d"]) -> Float[Tensor, "b classes"]:
        """Class scores, as they are tested."""
        return self.linear(self.norm(vectors))


class LinearProbe(Probe):
    """A linear classifier on one vector of each image, of an encoder that stays as it is."""

    merges = {"groups": "rows"}

    def __init__(
        self,
        encoder: FrozenEncoder,
        width: int,
        classes: int,
        *,
        group: int,
        seed: int,
        labels: Sequence[int] = (),
    ) -> None:
        """`width`: of the vectors; `labels`: of each class, where these are not 0, 1 and so on."""
        super().__init__(encoder, classes, labels)
        self.group = group
        self.head = ProbeHead(width, classes, seed)

    def forward(
        self,
        images: Shaped[Tensor, "b c h w"],
        noise: Int[Tensor, " b"],
        progress: Float[Tensor, ""],
    ) -> Output:
        """Cross-entropy of images that come in whole groups; fewer are a group of their own."""
        vectors = self.vectors(images)
        size = self.group if len(vectors) % self.group == 0 else len(vectors)
        with full_precision(images.device):
            normal, groups = self.head.norm.normalize_groups(vectors, size)
            scores = self.head.linear(normal)
            loss = F.cross_entropy(scores, noise)
        right = (scores.detach().argmax(dim=1) == noise).to(loss.dtype).mean()
        return Output({"cross_entropy": loss}, {"right": right}, {"groups": groups})

    def logits(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Class scores of whole images, by the running statistics."""
        vectors = self.vectors(images)
        with full_precision(images.device):
            return self.head(vectors)

    def vectors(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Vectors that the head reads: the class token where there is one."""
        found = self.frozen(images)
        return found[preferred_feature(found)].float()

    def after_step(self, step: StepEnd) -> None:
        """Running statistics of BatchNorm."""
        self.head.norm.update(step.carry["groups"], step.skipped)
