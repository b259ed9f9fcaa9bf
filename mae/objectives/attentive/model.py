"""Attentive probe: attention pooling with a learned query, then a linear classifier.

As in CAE (Chen et al. 2024, "Context Autoencoder for Self-Supervised Representation Learning") and
V-JEPA (Bardes et al. 2024, "Revisiting Feature Prediction for Learning Visual Representations from
Video").
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
"""width of an attention head, as in a ViT"""


class AttentiveHead(nn.Module):
    """Attention pooling and classifier: tokens [b t d] → class scores [b classes].

    Multi-head attention (Vaswani et al. 2017, section 3.2.2) of one learned query q to all tokens
    x_1 … x_t, then LayerNorm and a linear layer.  In each attention head h

        a_i = softmax_i(q_h · K_h x_i / sqrt(k)),  y_h = Σ_i a_i (V_h x_i + v_h)

    Because all of this but the softmax is linear and the a_i sum to 1, it is computed as
    q_h · K_h x = (K_hᵀ q_h) · x and y_h = V_h (Σ_i a_i x_i) + v_h: no projection of every token,
    the same numbers (Psomas et al. 2025, "Attention, Please! Revisiting Attentive Probing").  A
    bias of the keys would add the same number to all scores of a softmax, so there is none.
    """

    def __init__(self, width: int, classes: int, generator: torch.Generator) -> None:
        """Initialise by `generator`, with about `width` / HEAD_WIDTH attention heads."""
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
        """Concatenate the y_h of all attention heads."""
        query, shape = self.query.unflatten(0, (self.num_heads, -1)), (self.num_heads, -1)
        projected = torch.einsum("hk,hkd->hd", query, self.key.weight.unflatten(0, shape))
        scores = tokens @ projected.T / query.shape[1] ** 0.5
        averages = scores.softmax(dim=1).transpose(1, 2) @ tokens
        pooled = torch.einsum("bhd,hkd->bhk", averages, self.value.weight.unflatten(0, shape))
        return pooled.flatten(1) + self.value.bias


class AttentiveProbe(Probe):
    """Independent heads on a frozen encoder; the loss is the sum of theirs.

    All heads have the same random initial weights.  Where there are several, one whose loss is not
    finite gets no gradient, and the others train on.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        width: int,
        classes: int,
        *,
        copies: int,
        seed: int,
        labels: Sequence[int] = (),
    ) -> None:
        """Build `copies` heads for tokens of `width`; `labels` of the classes as in `Probe`."""
        super().__init__(encoder, classes, labels)
        self.heads = nn.ModuleList(
            AttentiveHead(width, classes, torch.Generator().manual_seed(seed))
            for _ in range(copies)
        )
        if copies > 1:
            for parameter in self.heads.parameters():
                parameter.register_hook(_finite)

    def forward(
        self,
        images: Shaped[Tensor, "b ..."],
        noise: Int[Tensor, " b"],
        progress: Float[Tensor, ""],
    ) -> Output:
        """Compute the cross-entropy for images, or for their tokens [b t d]."""
        tokens = self.tokens(images)
        with full_precision(images.device):
            scores = self.scores(tokens)
            losses = torch.stack([F.cross_entropy(of_head, noise) for of_head in scores])
        right = (scores.detach().argmax(dim=2) == noise).to(losses.dtype).mean(dim=1)
        of_heads = torch.cat([losses.detach(), right, torch.ones_like(losses[:1])])
        if len(self.heads) > 1:
            losses = torch.where(losses.isfinite(), losses, 0.0)
        return Output({"cross_entropy": losses.sum()}, {"of_heads": of_heads.detach()}, {})

    def scores(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "heads b classes"]:
        """Compute the class scores of every head."""
        return torch.stack([head(tokens) for head in self.heads])

    def tokens(self, images: Shaped[Tensor, "b ..."]) -> Float[Tensor, "b t d"]:
        """Encode images, rounded to the cache's half precision; tokens [b t d] pass unchanged."""
        if images.ndim == 3:
            return images.float()
        with full_precision(images.device):
            return joined(self.frozen(images)).half().float()

    def logits(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Compute the class scores of the first head."""
        tokens = self.tokens(images)
        with full_precision(images.device):
            return self.heads[0](tokens)


def _finite(gradient: Tensor) -> Tensor:
    """Gradient with NaN and infinity replaced by 0."""
    return gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
