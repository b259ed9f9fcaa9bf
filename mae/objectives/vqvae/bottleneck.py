"""Vector quantisation with a codebook of moving averages (van den Oord et al. 2017, appendix A.1).

The codebook starts from k-means of the first step's vectors, and codes that are hardly used are
replaced by vectors of the step.  Both read all processes' vectors in the order of the samples and
draw from the run's seed and the step, so that the number of processes changes nothing.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mae.base.hashing import Stream, fold
from mae.base.tensor_hashing import as_tensor, counters
from mae.objectives.autoencoders.backbones import MapShape, ToLatent
from mae.objectives.autoencoders.bottleneck import Latent
from mae.objectives.autoencoders.discrete import Quantizer, count_codes
from mae.objectives.base import Merge, StepEnd, full_precision

CANDIDATES = 16
"""largest number of vectors per image that k-means and revival may take"""

KMEANS_ITERATIONS = 10

STARTING_STEPS = 4
"""steps in which the codebook can start, as the first ones may be skipped: the host cannot know it
without waiting for the device, so each of them computes a start"""

MOST_DISTANCES = 2**26
"""maximum number of distances held at a time in training, 256 MB in float32; more take turns"""

EPS = 1e-5
"""added to each code's count (Laplace smoothing)"""


def nearest(vectors: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """Index of the nearest code of each vector, by Euclidean distance."""
    # |v|² is the same for all codes.
    return (codebook.square().sum(dim=1) - 2 * vectors @ codebook.T).argmin(dim=1)


def sums_by_code(
    vectors: Float[Tensor, "n d"], codes: Int[Tensor, " n"], num_codes: int
) -> Float[Tensor, "k d"]:
    """Sum of the vectors of each code, as a matrix product: deterministic on every device."""
    is_code = torch.zeros(len(codes), num_codes, dtype=vectors.dtype, device=vectors.device)
    return is_code.scatter(1, codes[:, None], 1.0).T @ vectors


def draw_rows(words: Int[Tensor, " m"], count: int) -> Int[Tensor, " m"]:
    """Random rows of `count`: different ones, as long as there are enough."""
    order = counters(words[:1], count)[0].argsort(stable=True)
    return order[torch.arange(len(words), device=words.device) % count]


def kmeans(vectors: Float[Tensor, "n d"], start: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Centres after Lloyd's iterations from `start`.

    Centres without vectors stay where they are.
    """
    centres = start
    for _ in range(KMEANS_ITERATIONS):
        codes = nearest(vectors, centres)
        counts = count_codes(codes, len(centres)).to(vectors.dtype)
        means = sums_by_code(vectors, codes, len(centres)) / counts.clamp(min=1)[:, None]
        centres = torch.where(counts[:, None] > 0, means, centres)
    return centres


class VectorQuantizer(Quantizer):
    """Nearest code of each vector; straight-through gradient; codebook by moving averages."""

    merges: ClassVar[Mapping[str, Merge]] = {"counts": "sum", "sums": "sum", "candidates": "rows"}
    codebook: Float[Tensor, "k d"]
    counts: Float[Tensor, " k"]
    """moving average of each code's uses per step"""
    sums: Float[Tensor, "k d"]
    """moving average of the sum of each code's vectors per step"""
    is_started: Tensor
    """bool, 0-d: the codebook is learned, not the random one of the beginning"""

    def __init__(
        self,
        shape: MapShape,
        latent_dim: int,
        *,
        codebook_size: int,
        commitment: float,
        decay: float,
        kmeans_start: bool,
        revive_below: float,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.to_latent = ToLatent(shape, "map", latent_dim)
        self.positions = shape.rows * shape.columns
        self.candidates = min(CANDIDATES, self.positions)
        self.num_codes = codebook_size
        self.commitment, self.decay = commitment, decay
        self.kmeans_start, self.revive_below = kmeans_start, revive_below
        codebook = torch.randn(codebook_size, latent_dim)
        self.register_buffer("codebook", codebook)
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("sums", codebook.clone())
        self.register_buffer("is_started", torch.tensor(not kmeans_start))

    def draw(self, seeds: Int[Tensor, " b"]) -> Int[Tensor, "b m"]:
        """Positions of the candidate vectors of each image."""
        order = counters(seeds, self.positions).argsort(dim=1, stable=True)
        return order[:, : self.candidates]

    def vectors(self, features: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b gh gw n"]:
        """Vectors to quantise, in full precision."""
        latents = self.to_latent(features)
        with full_precision(features.device):
            return latents.to(self.codebook.dtype).movedim(1, -1)

    def forward(
        self,
        features: Float[Tensor, "b d gh gw"],
        noise: Shaped[Tensor, "b m"] | None,
        progress: Float[Tensor, ""],
    ) -> Latent:
        """Quantised vectors with the gradient of the vectors themselves; commitment loss."""
        assert noise is not None
        vectors = self.vectors(features)
        with full_precision(features.device):
            rows = vectors.detach().flatten(0, 2)
            parts = rows.split(max(1, MOST_DISTANCES // self.num_codes))
            codes = torch.cat([nearest(part, self.codebook) for part in parts])
            quantised = self.codebook[codes].view_as(vectors)
            commitment = self.commitment * (vectors - quantised).square().mean()
            straight = vectors + (quantised - vectors).detach()
            positions = vectors.detach().flatten(1, 2)
            index = noise[:, :, None].expand(-1, -1, positions.shape[2])
            counts = count_codes(codes, self.num_codes)
            sums = torch.zeros_like(self.sums)
            for part, one in zip(parts, codes.split(len(parts[0])), strict=True):
                sums = sums + sums_by_code(part, one, self.num_codes)
            carry = {
                "counts": counts.to(rows.dtype),
                "sums": sums,
                "candidates": positions.gather(1, index).flatten(0, 1),
            }
        latents = straight.movedim(-1, 1)
        return Latent(latents, {"commitment": commitment}, {"uses": counts}, carry)

    def codes(self, features: Float[Tensor, "b d gh gw"]) -> Int[Tensor, "b gh gw"]:
        """Nearest code of each position."""
        vectors = self.vectors(features)
        with full_precision(features.device):
            return nearest(vectors.flatten(0, 2), self.codebook).view(vectors.shape[:3])

    def embed(self, codes: Int[Tensor, "b gh gw"]) -> Float[Tensor, "b n gh gw"]:
        """Vectors of the codes."""
        return self.codebook[codes].movedim(-1, 1)

    @property
    def mean_vector(self) -> Float[Tensor, "n 1 1"]:
        """Mean of the quantised vectors, by the moving averages."""
        shares = self.counts / self.counts.sum()
        return (shares @ self.codebook)[:, None, None]

    @torch.no_grad()
    def after_step(self, step: StepEnd) -> None:
        """Move the codebook to the means of its vectors; start it, and revive unused codes."""
        state = self._moved(step.carry, step)
        if self.kmeans_start and step.number <= STARTING_STEPS:
            first = self._started(step.carry, step)
            pairs = zip(state, first, strict=True)
            state = tuple(torch.where(self.is_started, one, other) for one, other in pairs)
        for buffer, value in zip((self.codebook, self.counts, self.sums), state, strict=True):
            buffer.copy_(torch.where(step.skipped, buffer, value))
        self.is_started.logical_or_(~step.skipped)

    def _words(self, step: StepEnd, device: torch.device) -> Int[Tensor, " k"]:
        """Random words, one per code, from seed and step alone."""
        word = int(as_tensor(fold(step.seed, Stream.AFTER_STEP, step.number))[0])
        # Filled on the device: a copy from the host would wait for it.
        key = torch.full((1,), word, dtype=torch.int64, device=device)
        return counters(key, self.num_codes)[0]

    def _started(self, carry: dict[str, Tensor], step: StepEnd) -> tuple[Tensor, Tensor, Tensor]:
        """Codebook, counts and sums from k-means of the candidates."""
        candidates = carry["candidates"]
        rows = draw_rows(self._words(step, candidates.device), len(candidates))
        centres = kmeans(candidates, candidates[rows])
        counts = carry["counts"].sum().expand_as(self.counts) / self.num_codes
        return centres, counts, centres * counts[:, None]

    def _moved(self, carry: dict[str, Tensor], step: StepEnd) -> tuple[Tensor, Tensor, Tensor]:
        """Codebook, counts and sums after the moving average, unused codes replaced."""
        counts = self.counts.lerp(carry["counts"], 1 - self.decay)
        sums = self.sums.lerp(carry["sums"], 1 - self.decay)
        total = counts.sum()
        smoothed = (counts + EPS) / (total + self.num_codes * EPS) * total
        codebook = sums / smoothed[:, None]
        if not self.revive_below:
            return codebook, counts, sums
        mean = total / self.num_codes
        unused = counts < self.revive_below * mean
        candidates = carry["candidates"]
        rows = draw_rows(self._words(step, candidates.device), len(candidates))
        fresh = candidates[rows]
        return (
            torch.where(unused[:, None], fresh, codebook),
            torch.where(unused, mean, counts),
            torch.where(unused[:, None], fresh * mean, sums),
        )
