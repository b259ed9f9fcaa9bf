"""Linear probe of the paper: BatchNorm and a linear classifier on a frozen encoder."""

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

    In training each group is normalised by its own mean and variance: the result does not depend
    on the split of a batch into processes and micro-batches.  In evaluation vectors are normalised
    by the running statistics, which equal those of nn.BatchNorm1d on one group after the other.
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
        """Normalise each group; returns vectors, and the mean and unbiased variance per group."""
        groups = vectors.unflatten(0, (-1, size))
        var, mean = torch.var_mean(groups, dim=1, correction=0, keepdim=True)
        normal = (groups - mean) * (var + EPS).rsqrt()
        unbiased = var * (size / max(size - 1, 1))
        return normal.flatten(0, 1), torch.cat([mean, unbiased], dim=1)

    @torch.no_grad()
    def update(self, statistics: Float[Tensor, "groups 2 d"], skipped: Tensor) -> None:
        """Update the running statistics by those of the groups, in order; not where `skipped`."""
        mean, var = self.running_mean, self.running_var
        for group in statistics:
            mean, var = mean.lerp(group[0], MOMENTUM), var.lerp(group[1], MOMENTUM)
        self.running_mean.copy_(torch.where(skipped, self.running_mean, mean))
        self.running_var.copy_(torch.where(skipped, self.running_var, var))


class ProbeHead(nn.Module):
    """BatchNorm without weights, then a linear layer, initialised to N(0, 0.01) and zero bias."""

    def __init__(self, width: int, classes: int, seed: int) -> None:
        super().__init__()
        self.norm = GroupedNorm(width)
        self.linear = nn.Linear(width, classes)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, vectors: Float[Tensor, "b d"]) -> Float[Tensor, "b classes"]:
        """Compute class scores by the running statistics."""
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
        """Build a head for vectors of `width`; `labels` of the classes as in `Probe`."""
        super().__init__(encoder, classes, labels)
        self.group = group
        self.head = ProbeHead(width, classes, seed)

    def forward(
        self,
        images: Shaped[Tensor, "b c h w"],
        noise: Int[Tensor, " b"],
        progress: Float[Tensor, ""],
    ) -> Output:
        """Compute the cross-entropy of whole groups of images; a partial batch is one group."""
        vectors = self.vectors(images)
        size = self.group if len(vectors) % self.group == 0 else len(vectors)
        with full_precision(images.device):
            normal, groups = self.head.norm.normalize_groups(vectors, size)
            scores = self.head.linear(normal)
            loss = F.cross_entropy(scores, noise)
        right = (scores.detach().argmax(dim=1) == noise).to(loss.dtype).mean()
        return Output({"cross_entropy": loss}, {"right": right}, {"groups": groups})

    def logits(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Compute the class scores of whole images by the running statistics."""
        vectors = self.vectors(images)
        with full_precision(images.device):
            return self.head(vectors)

    def vectors(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Compute the input of the head: the class token where there is one."""
        vectors = self.frozen(images)
        return vectors[preferred_feature(vectors)].float()

    def after_step(self, step: StepEnd) -> None:
        """Update the running statistics of BatchNorm."""
        self.head.norm.update(step.carry["groups"], step.skipped)
