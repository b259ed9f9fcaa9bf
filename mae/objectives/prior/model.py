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
from mae.objectives.base import Features, FirstStage, Objective, Output, full_precision
from mae.objectives.capabilities import ImageCoding
from mae.objectives.frozen import Frozen
from mae.objectives.prior.coding import PriorNetwork, predictor
from mae.objectives.prior.settings import PriorModel

COUNTED = 64
"""images whose codes are counted at a time"""


class CodeNoise(NamedTuple):
    """Randomness of a micro-batch; None for a causal prior."""

    hidden: Shaped[Tensor, "b n"] | None = None
    """bool: codes that are hidden from the transformer and predicted"""


class CodePrior(Objective):
    """Transformer over the codes of a frozen tokenizer; cross-entropy of the predicted codes.

    causal: each code from the start token and the codes before it, in row-major order.  masked: the
    hidden codes from all others; the share that is hidden is cos(π/2 · u), u uniform (MaskGIT,
    section 3.1).

    Of a tokenizer with levels of codes, the coarsest level comes first, and each has tokens of its
    own: code c of level l is token l · num_codes + c.
    """

    level_of: Int[Tensor, " n"]
    """level of each position"""
    token_level: Int[Tensor, " k"]
    """level of each token"""

    def __init__(self, first_stage: FirstStage, model: PriorModel) -> None:
        super().__init__()
        tokenizer = first_stage.model
        assert isinstance(tokenizer, DiscreteAutoencoder)
        self.first_stage, self.frozen = first_stage, Frozen(tokenizer)
        self.img_size = tokenizer.img_size
        self.is_causal = model.kind == "causal"
        self.passes = model.passes
        self.levels = tokenizer.bottleneck.levels
        self.codes_per_level = tokenizer.bottleneck.num_codes
        self.num_codes = len(self.levels) * self.codes_per_level
        self.grids = [tokenizer.grid(level) for level in self.levels]
        self.lengths = [prod(grid) for grid in self.grids]
        self.length = sum(self.lengths)
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
        level_of = torch.arange(len(self.levels)).repeat_interleave(torch.tensor(self.lengths))
        token_level = torch.arange(self.num_codes) // self.codes_per_level
        self.register_buffer("level_of", level_of, persistent=False)
        self.register_buffer("token_level", token_level, persistent=False)

    @property
    def tokenizer(self) -> DiscreteAutoencoder:
        """Frozen tokenizer."""
        assert isinstance(self.frozen.module, DiscreteAutoencoder)
        return self.frozen.module

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
        """Tokens of whole images, row by row, by the tokenizer in full precision."""
        with full_precision(images.device):
            maps = self.tokenizer.bottleneck.split(self.tokenizer.codes(images))
        size = self.codes_per_level
        return torch.cat([one.flatten(1) + at * size for at, one in enumerate(maps)], dim=1)

    @torch.no_grad()
    def pictures(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b c h w"]:
        """Tokens → images in [0, 1], by the tokenizer."""
        parts = zip(codes.split(self.lengths, dim=1), self.grids, strict=True)
        maps = [(part % self.codes_per_level).unflatten(1, grid) for part, grid in parts]
        return self.tokenizer.decode_codes(self.tokenizer.bottleneck.join(maps))

    def coding(self) -> ImageCoding:
        """The tokenizer's codes with their probabilities, for compressed files."""
        network = PriorNetwork(
            self.embed,
            self.pos_embed,
            self.transformer,
            self.head,
            self.lengths,
            self.codes_per_level,
            0 if self.is_causal else self.passes,
        )
        return self.tokenizer.coding()._replace(any_size=False, predict=predictor(network))

    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: CodeNoise, progress: Float[Tensor, ""]
    ) -> Output:
        """Mean cross-entropy in nats per predicted code; each image counts the same."""
        codes = self.codes(images)
        nats = self.nats(codes, noise.hidden)
        hidden = torch.ones_like(nats) if noise.hidden is None else noise.hidden.to(nats.dtype)
        predicted = nats * hidden
        statistics = {
            "uses": count_codes(codes, self.num_codes),
            "level_nats": self.by_level(predicted.detach()),
            "level_codes": self.by_level(hidden),
        }
        loss = (predicted.sum(dim=1) / hidden.sum(dim=1)).mean()
        return Output({"codes": loss}, statistics, {})

    def by_level(self, values: Float[Tensor, "b n"]) -> Float[Tensor, " levels"]:
        """Sum over images and positions of each level, float64."""
        return torch.stack([one.sum() for one in values.double().split(self.lengths, dim=1)])

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
        """Scores of all tokens at each position; -inf for those of other levels."""
        return self.own(self.head(self.hidden_states(tokens)), 0)

    def own(self, logits: Float[Tensor, "b n k"], start: int) -> Float[Tensor, "b n k"]:
        """Scores at the positions from `start`, without the tokens of other levels."""
        if len(self.levels) == 1:
            return logits
        level = self.level_of[start : start + logits.shape[1], None]
        return logits.masked_fill(level != self.token_level, -torch.inf)

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
    def sample(
        self, seeds: Int[Tensor, " b"], temperature: float = 1.0
    ) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1], one per seed: sampled codes, decoded.  NaN if scores are not finite.

        `temperature`: divisor of the scores.
        """
        codes = self.sample_codes(seeds, temperature)
        is_finite = self.nats(codes).isfinite().all(dim=1)  # a code is drawn from any scores
        return torch.where(is_finite.view(-1, 1, 1, 1), self.pictures(codes), torch.nan)

    @torch.no_grad()
    def trivial_samples(
        self, images: Shaped[Tensor, "m c h w"], seeds: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1], one per seed: codes drawn by their frequencies in `images`, decoded.

        Each code is drawn alone, of its level: the model whose entropy is the prior's baseline.
        """
        codes = torch.cat([self.codes(part) for part in images.split(COUNTED)])
        chance = uniforms(seeds, self.length)
        counts = [
            count_codes(part, self.num_codes).log() for part in codes.split(self.lengths, dim=1)
        ]
        scores = torch.stack(counts)[self.level_of].expand(len(seeds), -1, -1)
        return self.pictures(draw_code(scores, chance))

    @torch.no_grad()
    def sample_codes(
        self, seeds: Int[Tensor, " b"], temperature: float = 1.0
    ) -> Int[Tensor, "b n"]:
        """Codes drawn from the prior, a function of the seeds."""
        if self.is_causal:
            return self._sample_in_order(seeds, temperature)
        return self._sample_in_passes(seeds, temperature)

    def _sample_in_order(self, seeds: Int[Tensor, " b"], temperature: float) -> Int[Tensor, "b n"]:
        chance = uniforms(seeds, self.length)
        codes = torch.zeros(len(seeds), self.length, dtype=torch.int64, device=seeds.device)
        for position in range(self.length):
            tokens = self.shifted(codes)[:, : position + 1]
            last = self.head(self.hidden_states(tokens)[:, -1:])
            logits = self.own(last, position)[:, 0] / temperature
            codes[:, position] = draw_code(logits, chance[:, position])
        return codes

    def _sample_in_passes(self, seeds: Int[Tensor, " b"], temperature: float) -> Int[Tensor, "b n"]:
        """MaskGIT, section 3.2: in each pass the most confident codes are kept."""
        codes = torch.full(
            (len(seeds), self.length), self.num_codes, dtype=torch.int64, device=seeds.device
        )
        for number in range(1, self.passes + 1):
            seeds = mix_tensor(seeds)
            hidden = codes == self.num_codes
            logits = self.logits_of(codes) / temperature
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
