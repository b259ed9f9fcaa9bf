"""Sparse autoencoder of vectors: BatchTopK in training, a threshold afterwards.

Bussmann et al. 2024 ("BatchTopK Sparse Autoencoders", arXiv:2412.06410), with the auxiliary loss of
Gao et al. 2024 (arXiv:2406.04093, appendix A.2).
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mae.objectives.autoencoders.sparsity import CountsUses, keep_largest, keep_largest_dead
from mae.objectives.base import Merge, Output, StepEnd, full_precision


class FoldedWeights(NamedTuple):
    """The same autoencoder as four plain tensors and a threshold, for tokens as they are.

    latents z = p · [p > threshold] with p = W_enc (x - b_dec) + b_enc; tokens x = W_decᵀ z + b_dec.
    """

    encoder: Float[Tensor, "n d"]
    encoder_bias: Float[Tensor, " n"]
    decoder: Float[Tensor, "n d"]
    """rows of length 1"""
    decoder_bias: Float[Tensor, " d"]
    threshold: Float[Tensor, ""]


class TokenDictionary(CountsUses):
    """Tokens [b t d] ↔ sparse latents [b t n].

    The weights work on normalised tokens: less `centre`, times `scale`, both measured on the first
    step that is not skipped, after which their mean square is 1.  Rows of the decoder have length
    1: `forward` divides by it, which takes their radial component out of the gradient, and after
    each step so do the weights themselves.
    """

    merges: ClassVar[Mapping[str, Merge]] = {
        **CountsUses.merges,
        "sums": "sum",
        "squares": "sum",
        "smallest": "sum",
        "groups": "sum",
    }
    centre: Float[Tensor, " d"]
    """mean token"""
    scale: Float[Tensor, ""]
    """1 / root mean square of the centred tokens' numbers"""
    is_started: Tensor
    """bool, 0-d: centre and scale are measured"""
    threshold: Float[Tensor, ""]
    """moving average of the smallest latent that BatchTopK kept in a group, of normalised tokens"""
    threshold_steps: Float[Tensor, ""]
    """number of steps in it"""

    def __init__(
        self,
        width: int,
        latent_dim: int,
        *,
        k: int,
        group: int,
        aux_weight: float,
        aux_k: int,
        dead_after: int,
        threshold_decay: float,
    ) -> None:
        """`group`: images that share their k latents per token, consecutive ones of a batch."""
        super().__init__()
        self.k, self.group = k, group
        self.aux_weight, self.aux_k = aux_weight, min(aux_k, latent_dim)
        self.threshold_decay = threshold_decay
        decoder = F.normalize(torch.randn(latent_dim, width), dim=1)
        self.decoder = nn.Parameter(decoder)
        self.decoder_bias = nn.Parameter(torch.zeros(width))
        self.encoder = nn.Parameter(decoder.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(latent_dim))
        self.count_uses(latent_dim, dead_after)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("is_started", torch.tensor(False))
        self.register_buffer("threshold", torch.zeros((), dtype=torch.float64))
        self.register_buffer("threshold_steps", torch.zeros((), dtype=torch.float64))

    @property
    def latent_dim(self) -> int:
        """Number of latents."""
        return len(self.encoder)

    # Training

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Output:
        """Losses of reconstruction and of dead latents, in shares of the tokens' variance.

        In the first step, before centre and scale are measured, the losses are those of the mean
        token, 1 and 0, without a gradient.
        """
        inputs = self.normalise(tokens)
        scores = self.scores(inputs)
        with full_precision(tokens.device):
            positive = scores.to(inputs.dtype).relu()
            latents = self.keep_in_groups(positive)
        predicted = self.combine(latents)
        with full_precision(tokens.device):
            missing = inputs - predicted.to(inputs.dtype)
            dead = keep_largest_dead(positive.flatten(0, 1), self.is_dead(), self.aux_k)
        from_dead = dead.values @ self.directions()
        with full_precision(tokens.device):
            is_started = self.is_started.to(inputs.dtype)
            error = missing.square().mean()
            rest = (missing.detach().flatten(0, 1) - from_dead.to(inputs.dtype)).square().mean()
            losses = {
                "reconstruction": is_started * error + (1 - is_started),
                "dead": is_started * self.aux_weight * dead.any_dead * rest,
            }
            is_active = latents.detach().flatten(0, 1) > 0
            statistics = {
                "tokens": is_started * len(is_active),
                "errors": is_started * missing.detach().square().sum(),
                "sums": is_started * inputs.sum(dim=(0, 1)),
                "squares": is_started * inputs.square().sum(),
                "active": is_started * is_active.sum(),
                "dead_latents": self.is_dead().to(inputs.dtype).mean(),
            }
            carry = {
                **self.uses_of(is_active),
                "sums": tokens.double().sum(dim=(0, 1)),
                "squares": tokens.double().square().sum(),
                **self.smallest_kept(latents.detach()),
            }
        return Output(losses, statistics, carry)

    def in_groups(self, latents: Float[Tensor, "b t n"]) -> Float[Tensor, "g m"]:
        """One row for each group of images; fewer images than a group are one."""
        return latents.reshape(len(latents) // min(self.group, len(latents)), -1)

    def keep_in_groups(self, latents: Float[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        """BatchTopK: of each group of images the k · tokens largest latents."""
        groups = self.in_groups(latents)
        tokens = groups.shape[1] // latents.shape[2]
        return keep_largest(groups, self.k * tokens).view_as(latents)

    def smallest_kept(self, latents: Float[Tensor, "b t n"]) -> dict[str, Tensor]:
        """Sum over groups of the smallest latent that is not zero, and number of these groups."""
        groups = self.in_groups(latents)
        smallest = torch.where(groups > 0, groups, torch.inf).amin(dim=1).double()
        is_any = smallest.isfinite()
        return {
            "smallest": torch.where(is_any, smallest, 0.0).sum(),
            "groups": is_any.double().sum(),
        }

    @torch.no_grad()
    def after_step(self, step: StepEnd) -> None:
        """Give rows of the decoder length 1; measure the tokens, threshold and uses."""
        self.decoder.copy_(torch.where(step.skipped, self.decoder, self.directions()))
        self.add_uses(step)
        self._move_threshold(step)
        self._start(step)

    def _move_threshold(self, step: StepEnd) -> None:
        """Average of all steps at first, then a moving one."""
        groups = step.carry["groups"]
        is_new = self.is_started & ~step.skipped & (groups > 0)
        count = self.threshold_steps + 1
        rate = (1 / count).clamp(min=1 - self.threshold_decay)
        moved = self.threshold.lerp(step.carry["smallest"] / groups.clamp(min=1), rate)
        self.threshold.copy_(torch.where(is_new, moved, self.threshold))
        self.threshold_steps.copy_(torch.where(is_new, count, self.threshold_steps))

    def _start(self, step: StepEnd) -> None:
        """Measure, once, the tokens' mean and the scale at which their mean square is 1."""
        mean = step.carry["sums"] / step.carry["vectors"]
        square = step.carry["squares"] / step.carry["vectors"] - mean.square().sum()
        scale = torch.where(square > 0, (len(mean) / square.clamp(min=1e-30)).sqrt(), 1.0)
        is_new = ~self.is_started & ~step.skipped
        self.centre.copy_(torch.where(is_new, mean.to(self.centre.dtype), self.centre))
        self.scale.copy_(torch.where(is_new, scale.to(self.scale.dtype), self.scale))
        self.is_started.logical_or_(~step.skipped)

    # Use

    def latents(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t n"]:
        """Latents above the threshold, in the units of the tokens."""
        scores = self.scores(self.normalise(tokens))
        with full_precision(tokens.device):
            scores = scores.to(self.scale.dtype)
            return torch.where(scores > self.threshold.to(scores.dtype), scores, 0.0) / self.scale

    def decode(self, latents: Float[Tensor, "b t n"]) -> Float[Tensor, "b t d"]:
        """Latents → tokens."""
        return self.combine(latents * self.scale) / self.scale + self.centre

    @torch.no_grad()
    def folded(self) -> FoldedWeights:
        """The weights with centre and scale folded in."""
        return FoldedWeights(
            encoder=self.encoder.detach(),
            encoder_bias=self.encoder_bias.detach() / self.scale,
            decoder=self.directions(),
            decoder_bias=self.decoder_bias.detach() / self.scale + self.centre,
            threshold=(self.threshold / self.scale).to(self.scale.dtype),
        )

    # Parts

    def normalise(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Tokens as the weights expect them."""
        with full_precision(tokens.device):
            return (tokens.to(self.scale.dtype) - self.centre) * self.scale

    def scores(self, inputs: Float[Tensor, "b t d"]) -> Float[Tensor, "b t n"]:
        """Latents of normalised tokens before any is zeroed."""
        return F.linear(inputs - self.decoder_bias, self.encoder, self.encoder_bias)

    def combine(self, latents: Float[Tensor, "b t n"]) -> Float[Tensor, "b t d"]:
        """Normalised tokens from latents."""
        return latents @ self.directions() + self.decoder_bias

    def directions(self) -> Float[Tensor, "n d"]:
        """Rows of the decoder, of length 1."""
        return F.normalize(self.decoder, dim=1)
