"""Scorer `decoder`: a small decoder that reproduces normal features, and fails on others.

After Guo et al. 2024, "Dinomaly" (arXiv:2405.14325): a bottleneck whose dropout keeps it from
passing through what it never saw (section 3.3), linear attention that cannot focus on a patch's own
token (3.4), layers of the encoder compared as groups (3.5), and a loss in which patches that are
reproduced well count little (3.5, "loose loss").  The decoder is much narrower than theirs.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mae.anomaly.patch_features import Maps
from mae.anomaly.scorer import ScoreMaps, Scorer, Statistics
from mae.base.progress import Progress

WIDTH = 128
"""maximum width of the tokens"""
BLOCKS = 2
DROPOUT = 0.3
"""share of the bottleneck's numbers that are dropped in training"""
STEPS = 400
LR = 2e-3
"""peak learning rate of AdamW"""
WARMUP = 40
"""steps up to it"""
DECAY = 1e-4
HARD = 0.1
"""share of the patches, those reproduced worst, that count fully"""
EASY = 0.1
"""weight of the others' gradients"""

PatchTokens = Float[Tensor, "b n d"]


class Decoder(Scorer):
    """Dissimilarity of a patch's features from those that a decoder trained on normal ones gives.

    Of an encoder 1 - cosine, averaged over its layers; of other features the root of the mean
    squared difference, in standard deviations of normal patches.
    """

    name = "decoder"
    is_trained = True

    def collect(self, maps: Maps, samples: Sequence[int], seed: int) -> Statistics:
        """Count, sums and sums of squares of all patches."""
        rows = maps.double().movedim(1, -1).flatten(0, 2)
        return {
            "count": torch.tensor([len(rows)]).numpy(),
            "sum": rows.sum(0).cpu().numpy(),
            "squares": rows.square().sum(0).cpu().numpy(),
        }

    def finish(self, statistics: Statistics) -> Mapping[str, Tensor]:
        """Mean and standard deviation of each number of a patch."""
        mean = torch.from_numpy(statistics["sum"] / statistics["count"])
        variance = torch.from_numpy(statistics["squares"] / statistics["count"]) - mean.square()
        floor = 1e-4 * variance.mean() + 1e-12
        return {"mean": mean.float(), "std": variance.clamp(min=floor).sqrt().float()}

    def train(
        self,
        parameters: Mapping[str, Tensor],
        batches: Callable[[int], Iterator[Maps]],
        layers: int,
        seed: int,
        show: Progress,
    ) -> Mapping[str, Tensor]:
        """Train for STEPS steps; the same numbers from the same features and seed."""
        device = parameters["mean"].device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            weights = {
                name: value.to(device).requires_grad_()
                for name, value in initial_weights(len(parameters["mean"])).items()
            }
            known = {**parameters, "layers": torch.zeros(layers, device=device)}
            optimizer = torch.optim.AdamW(weights.values(), LR, (0.9, 0.95), weight_decay=DECAY)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
            for step, maps in enumerate(batches(STEPS), 1):
                tokens = as_tokens(known, maps)
                errors = dissimilarity(known, tokens, decoded(weights, tokens, DROPOUT))
                optimizer.zero_grad()
                loose_loss(errors).backward()
                torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
                optimizer.step()
                schedule.step()
                show(step, STEPS)
        return {**known, **{name: value.detach() for name, value in weights.items()}}

    def score(self, parameters: Mapping[str, Tensor], maps: Maps) -> ScoreMaps:
        """Dissimilarity of each patch from its reproduction."""
        tokens = as_tokens(parameters, maps)
        errors = dissimilarity(parameters, tokens, decoded(parameters, tokens))
        return errors.unflatten(1, (maps.shape[2], maps.shape[3]))


def rate(step: int) -> float:
    """Share of the peak learning rate: a linear rise, then a cosine to 0."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, STEPS - WARMUP)))


def loose_loss(errors: Float[Tensor, "b n"]) -> Float[Tensor, ""]:
    """Mean error, in which all but the HARD largest ones have EASY of their gradient."""
    flat = errors.flatten()
    limit = flat.detach().topk(max(1, round(HARD * len(flat)))).values[-1]
    weight = torch.where(flat.detach() < limit, EASY, 1.0)
    return (flat * weight).mean()


def as_tokens(parameters: Mapping[str, Tensor], maps: Maps) -> PatchTokens:
    """Features of the patches in standard deviations from their means."""
    return (maps.flatten(2).transpose(1, 2) - parameters["mean"]) / parameters["std"]


def dissimilarity(
    parameters: Mapping[str, Tensor], tokens: PatchTokens, reproduced: PatchTokens
) -> Float[Tensor, "b n"]:
    """Dissimilarity of tokens from reproduced ones, by layers where there are any."""
    layers = len(parameters["layers"])
    if not layers:
        return ((tokens - reproduced).square().mean(-1) + 1e-12).sqrt()
    pairs = (one.unflatten(-1, (layers, -1)) for one in (tokens, reproduced))
    return (1 - F.cosine_similarity(*pairs, dim=-1)).mean(-1)


def initial_weights(width: int) -> dict[str, Tensor]:
    """Weights of a decoder of features of `width` numbers, from torch's generator."""
    inner = min(WIDTH, width)
    weights: dict[str, Tensor] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        weights[f"{name}.weight"] = torch.randn(outputs, inputs) / math.sqrt(inputs)
        weights[f"{name}.bias"] = torch.zeros(outputs)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = torch.ones(inner), torch.zeros(inner)

    linear("embed", width, inner)
    linear("bottleneck.1", inner, 2 * inner)
    linear("bottleneck.2", 2 * inner, inner)
    for block in range(BLOCKS):
        norm(f"{block}.norm1")
        linear(f"{block}.qkv", inner, 3 * inner)
        linear(f"{block}.proj", inner, inner)
        norm(f"{block}.norm2")
        linear(f"{block}.mlp1", inner, 2 * inner)
        linear(f"{block}.mlp2", 2 * inner, inner)
    norm("norm")
    linear("head", inner, width)
    return weights


def decoded(
    weights: Mapping[str, Tensor], tokens: PatchTokens, dropout: float = 0.0
) -> PatchTokens:
    """Tokens through bottleneck and blocks; the dropout is that of training."""

    def linear(name: str, inputs: Tensor) -> Tensor:
        return F.linear(inputs, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, inputs: Tensor) -> Tensor:
        shape = (inputs.shape[-1],)
        return F.layer_norm(inputs, shape, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def drop(inputs: Tensor) -> Tensor:
        return F.dropout(inputs, dropout) if dropout else inputs

    x = linear("embed", tokens)
    x = drop(linear("bottleneck.2", drop(F.gelu(linear("bottleneck.1", drop(x))))))
    for block in range(BLOCKS):
        query, key, value = linear(f"{block}.qkv", norm(f"{block}.norm1", x)).chunk(3, dim=-1)
        x = x + linear(f"{block}.proj", linear_attention(query, key, value))
        x = x + linear(f"{block}.mlp2", F.gelu(linear(f"{block}.mlp1", norm(f"{block}.norm2", x))))
    return linear("head", norm("norm", x))


def linear_attention(query: PatchTokens, key: PatchTokens, value: PatchTokens) -> PatchTokens:
    """Attention with the kernel elu + 1 (Katharopoulos et al. 2020, equation 7), one head."""
    query, key = F.elu(query) + 1, F.elu(key) + 1
    sums = key.sum(1, keepdim=True).transpose(1, 2)
    return (query @ (key.transpose(1, 2) @ value)) / (query @ sums)
