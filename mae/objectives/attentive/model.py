"""Attentive heads on the tokens of a frozen encoder, trained side by side."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.evaluation.encoders import FrozenEncoder
from mae.objectives.attentive.head import AttentiveHead
from mae.objectives.attentive.tokens import joined
from mae.objectives.base import Output, full_precision
from mae.objectives.frozen import Probe


class AttentiveProbe(Probe):
    """Heads that learn apart from each other: the loss is the sum of theirs.

    What is random is the start of the heads alone, which is the same for all of them.  Among
    several, one whose loss is not finite does not learn, and keeps no other from it.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        width: int,
        classes: int,
        *,
        num_heads: int,
        seed: int,
        labels: Sequence[int] = (),
    ) -> None:
        """`width`: of the tokens; `labels`: of each class, where these are not 0, 1 and so on."""
        super().__init__(encoder, classes, labels)
        self.heads = nn.ModuleList(
            AttentiveHead(width, classes, torch.Generator().manual_seed(seed))
            for _ in range(num_heads)
        )
        if num_heads > 1:
            for parameter in self.heads.parameters():
                parameter.register_hook(_finite)

    def forward(
        self,
        images: Shaped[Tensor, "b ..."],
        noise: Int[Tensor, " b"],
        progress: Float[Tensor, ""],
    ) -> Output:
        """Cross-entropy of images, or of their tokens [b t d]."""
        tokens = self.tokens(images)
        with full_precision(images.device):
            scores = self.scores(tokens)
            losses = torch.stack([F.cross_entropy(own, noise) for own in scores])
        right = (scores.detach().argmax(dim=2) == noise).to(losses.dtype).mean(dim=1)
        of_heads = torch.cat([losses.detach(), right, torch.ones_like(losses[:1])])
        if len(self.heads) > 1:
            losses = torch.where(losses.isfinite(), losses, 0.0)
        return Output({"cross_entropy": losses.sum()}, {"of_heads": of_heads.detach()}, {})

    def scores(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "heads b classes"]:
        """Class scores of every head."""
        return torch.stack([head(tokens) for head in self.heads])

    def tokens(self, images: Shaped[Tensor, "b ..."]) -> Float[Tensor, "b t d"]:
        """Tokens of images in the precision that the cache keeps, or those that are given."""
        if images.ndim == 3:
            return images.float()
        with full_precision(images.device):
            return joined(self.frozen(images)).half().float()

    def logits(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Class scores of the first head."""
        tokens = self.tokens(images)
        with full_precision(images.device):
            return self.heads[0](tokens)


def _finite(gradient: Tensor) -> Tensor:
    """The gradient without what is no number."""
    return gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
