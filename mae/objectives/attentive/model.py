"""Attention pooling with a learned query, before a linear classifier.

As attentive probes have it since CAE (Chen et al. 2024, "Context Autoencoder for Self-Supervised
Representation Learning") and V-JEPA (Bardes et al. 2024, "Revisiting Feature Prediction for
Learning Visual Representations from Video").
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.evaluation.encoders import FrozenEncoder
from mae.objectives.attentive.tokens import joined
from mae.objectives.base import Output, full_precision
from mae.objectives.frozen import Probe

HEAD_WIDTH = 64
"""dimensions of an attention head, as in a ViT"""


class AttentiveHead(nn.Module):
    """Tokens [b t d] → class scores [b classes].

    Multi-head attention (Vaswani et al. 2017, section 3.2.2) of one learned query q to all tokens
    x_1 … x_t, then LayerNorm and a linear layer.  In each attention head h

        a_i = softmax_i(q_h · K_h x_i / sqrt(k)),  y_h = Σ_i a_i (V_h x_i + v_h)

    Because all of this but the softmax is linear and the a_i sum to 1, it is computed as
    q_h · K_h x = (K_hᵀ q_h) · x and y_h = V_h (Σ_i a_i x_i) + v_h: no projection of every token,
    the same numbers (Psomas et al. 2025, "Attention, Please! Revisiting Attentive Probing").  A
    bias of the keys would add the same to all scores of a softmax, and is left out.
    """

    def __init__(self, width: int, classes: int, generator: torch.Generator) -> None:
        """Of as many attention heads as HEAD_WIDTH goes into `width`, at least one."""
        super().__init__()
        self.num_heads = max(1, width // HEAD_WIDTH)
        while width % self.num_heads:
            self.num_heads -= 1
        self.query = nn.Parameter(torch.empty(width))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classify = nn.Linear(width, classes)
        with torch.no_grad():
            for weights in (self.query, self.key.weight, self.value.weight, self.classify.weight):
                nn.init.trunc_normal_(weights, std=0.02, generator=generator)
            nn.init.zeros_(self.value.bias)
            nn.init.zeros_(self.classify.bias)

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b classes"]:
        """Pool, normalise, classify."""
        return self.classify(self.norm(self.pool(tokens)))

    def pool(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b d"]:
        """The y_h of all heads, side by side."""
        asked, shape = self.query.unflatten(0, (self.num_heads, -1)), (self.num_heads, -1)
        wanted = torch.einsum("hk,hkd->hd", asked, self.key.weight.unflatten(0, shape))
        scores = tokens @ wanted.T / asked.shape[1] ** 0.5
        gathered = scores.softmax(dim=1).transpose(1, 2) @ tokens
        pooled = torch.einsum("bhd,hkd->bhk", gathered, self.value.weight.unflatten(0, shape))
        return pooled.flatten(1) + self.value.bias


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
