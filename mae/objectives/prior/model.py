"""Prior over codes: causal (van den Oord et al. 2017) or masked (Chang et al. 2022, MaskGIT)."""

from math import cos, pi, prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.base.tensor_hashing import counters, mix_tensor, uniforms
from mae.networks.transformer import SequenceTransformer
from mae.objectives.autoencoders.discrete import DiscreteAutoencoder, count_codes
from mae.objectives.base import Features, Objective, Output, full_precision
from mae.objectives.prior.settings import PriorModel
from mae.objectives.prior.tokenizer import FrozenTokenizer


class CodeNoise(NamedTuple):
    """Randomness of a micro-batch; None for a causal prior."""

    hidden: Shaped[Tensor, "b n"] | None = None
    """bool: codes that are hidden from the transformer and predicted"""


class CodePrior(Objective):
    """Transformer over the codes of a frozen tokenizer; cross-entropy of the predicted codes.

    causal: each code from the start token and the codes before it, in row-major order.  masked: the
    hidden codes from all others; the share that is hidden is cos(π/2 · u), u uniform (MaskGIT,
    section 3.1).
    """

    def __init__(self, tokenizer: DiscreteAutoencoder, model: PriorModel) -> None:
        super().__init__()
        self.tokenizer = FrozenTokenizer(tokenizer)
        self.img_size = tokenizer.img_size
        self.is_causal = model.kind == "causal"
        self.passes = model.passes
        self.num_codes = tokenizer.bottleneck.num_codes
        shape = tokenizer.from_latent.shape
        self.grid = shape.rows, shape.columns
        self.length = prod(self.grid)
        # One more entry: the start token of a causal prior, the mask of a masked one.
        self.embed = nn.Embedding(self.num_codes + 1, model.dim)
        self.pos_embed = nn.Parameter(torch.empty(1, self.length, model.dim))
        self.transformer = SequenceTransformer(
            model.dim, model.depth, model.num_heads, self.is_causal
        )
        self.head = nn.Linear(model.dim, self.num_codes)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def draw(
        self,
        images: Shaped[Tensor, "b c h w"],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> CodeNoise:
        """Mask of the hidden codes, at least one per image: a pure function of `seeds`."""
        if self.is_causal:
            return CodeNoise()
        share = torch.cos(uniforms(mix_tensor(seeds), 1) * (pi / 2))
        count = (share * self.length).ceil().clamp(min=1)
        rank = counters(seeds, self.length).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        return CodeNoise(rank < count)

    @torch.no_grad()
    def codes(self, images: Shaped[Tensor, "b c h w"]) -> Int[Tensor, "b n"]:
        """Codes of whole images in row-major order, by the tokenizer in full precision."""
        with full_precision(images.device):
            return self.tokenizer.model.codes(images).flatten(1)

    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: CodeNoise, progress: Float[Tensor, ""]
    ) -> Output:
        """Mean cross-entropy in nats per predicted code; each image counts the same."""
        codes = self.codes(images)
        nats = self.nats(codes, noise.hidden)
        if noise.hidden is None:
            loss = nats.mean()
        else:
            hidden = noise.hidden.to(nats.dtype)
            loss = ((nats * hidden).sum(dim=1) / hidden.sum(dim=1)).mean()
        return Output({"codes": loss}, {"uses": count_codes(codes, self.num_codes)}, {})

    def nats(
        self, codes: Int[Tensor, "b n"], hidden: Shaped[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n"]:
        """Negative log-probability of each code, in nats; of a causal prior given those before."""
        tokens = self.shifted(codes) if self.is_causal else self.masked(codes, hidden)
        logits = self.logits_of(tokens)
        with full_precision(codes.device):
            scores = logits.to(self.head.weight.dtype).transpose(1, 2)
            return F.cross_entropy(scores, codes, reduction="none")

    def logits_of(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n k"]:
        """Scores of all codes at each position."""
        return self.head(self.hidden_states(tokens))

    def hidden_states(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Output of the transformer's last layer."""
        return self.transformer(self.embed(tokens) + self.pos_embed[:, : tokens.shape[1]])

    def shifted(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        """Start token, then all codes but the last."""
        start = torch.full_like(codes[:, :1], self.num_codes)
        return torch.cat([start, codes[:, :-1]], dim=1)

    def masked(
        self, codes: Int[Tensor, "b n"], hidden: Shaped[Tensor, "b n"] | None
    ) -> Int[Tensor, "b n"]:
        """Codes with the hidden ones replaced by the mask token."""
        return codes if hidden is None else torch.where(hidden, self.num_codes, codes)

    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Mean over positions of the transformer's output for the whole image."""
        codes = self.codes(images)
        tokens = self.shifted(codes) if self.is_causal else codes
        return Features({"mean": self.hidden_states(tokens).mean(dim=1)})

    @torch.no_grad()
    def sample(self, seeds: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1], one per seed: sampled codes, decoded.  NaN if scores are not finite."""
        codes = self.sample_codes(seeds)
        images = self.tokenizer.model.decode_codes(codes.unflatten(1, self.grid))
        is_finite = self.nats(codes).isfinite().all(dim=1)  # a code is drawn from any scores
        return torch.where(is_finite.view(-1, 1, 1, 1), images, torch.nan)

    @torch.no_grad()
    def sample_codes(self, seeds: Int[Tensor, " b"]) -> Int[Tensor, "b n"]:
        """Codes drawn from the prior, a function of the seeds."""
        if self.is_causal:
            return self._sample_in_order(seeds)
        return self._sample_in_passes(seeds)

    def _sample_in_order(self, seeds: Int[Tensor, " b"]) -> Int[Tensor, "b n"]:
        chance = uniforms(seeds, self.length)
        codes = torch.zeros(len(seeds), self.length, dtype=torch.int64, device=seeds.device)
        for position in range(self.length):
            tokens = self.shifted(codes)[:, : position + 1]
            logits = self.head(self.hidden_states(tokens)[:, -1])
            codes[:, position] = draw_code(logits, chance[:, position])
        return codes

    def _sample_in_passes(self, seeds: Int[Tensor, " b"]) -> Int[Tensor, "b n"]:
        """MaskGIT, section 3.2: in each pass the most confident codes are kept."""
        codes = torch.full(
            (len(seeds), self.length), self.num_codes, dtype=torch.int64, device=seeds.device
        )
        for number in range(1, self.passes + 1):
            seeds = mix_tensor(seeds)
            hidden = codes == self.num_codes
            logits = self.logits_of(codes)
            chance = uniforms(seeds, 2 * self.length).unflatten(1, (2, self.length))
            drawn = draw_code(logits, chance[:, 0])
            nats = logits.float().log_softmax(dim=2).gather(2, drawn[:, :, None])[:, :, 0]
            gumbel = -(-chance[:, 1].log()).log()
            confidence = nats + (1 - number / self.passes) * gumbel
            confidence = torch.where(hidden, confidence, torch.inf)
            share = cos(pi / 2 * number / self.passes) if number < self.passes else 0.0
            left = int(self.length * share)
            kept = confidence.argsort(dim=1, descending=True).argsort(dim=1) < self.length - left
            codes = torch.where(hidden & kept, drawn, codes)
        return codes


def draw_code(logits: Float[Tensor, "... k"], chance: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Draw a code by the inverse of the cumulative probabilities; `chance` in (0, 1)."""
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    total = cumulative[..., -1:]
    return (cumulative < chance.double()[..., None] * total).sum(dim=-1)
