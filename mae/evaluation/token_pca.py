"""Principal components of tokens, fitted in constant memory; explained variance beside them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

Sums = npt.NDArray[np.float64]


class TokenPca(NamedTuple):
    """All principal components of tokens."""

    mean: Float[Tensor, " d"]
    basis: Float[Tensor, "d d"]
    """orthonormal rows, by falling variance"""
    tokens: int
    """number of tokens that it is fitted on"""


def fit_token_pca(parts: Iterable[Float[Tensor, "n d"]]) -> TokenPca:
    """PCA of the rows of all parts, in the type of the parts; at least one row."""
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for rows in parts:
        count += len(rows)
        total = total + rows.sum(dim=0)
        products = products + rows.T @ rows
    mean = total / count
    _, vectors = torch.linalg.eigh(products / count - mean.outer(mean))
    return TokenPca(mean, vectors.T.flip(0).contiguous(), count)


def variance_sums(
    pca: TokenPca,
    tokens: Float[Tensor, "n d"],
    again: Float[Tensor, "n d"],
    is_active: Bool[Tensor, "n latents"],
) -> Sums:
    """Sums over tokens, float64 on the CPU, for `variance_figures`; `again`: reconstructions.

    Number of tokens, active latents, squared errors, squares about PCA's mean; the tokens about
    it [d], their squared components [d], the same sorted within each token [d], and the uses of
    each latent [latents].
    """
    centred = tokens - pca.mean
    components = (centred @ pca.basis.T).square()
    uses = is_active.sum(dim=0).double().cpu()
    errors = (tokens - again).square().sum()
    counts = [torch.tensor(float(len(tokens))), uses.sum(), errors, centred.square().sum()]
    parts = [
        torch.stack([one.double() for one in counts]),
        centred.sum(dim=0),
        components.sum(dim=0),
        components.sort(dim=1, descending=True).values.sum(dim=0),
        uses,
    ]
    return torch.cat([part.double() for part in parts]).numpy()


def variance_figures(pca: TokenPca, sums: Sums) -> dict[str, Any]:
    """Explained variance beside PCA's at as many numbers, from the totals of `variance_sums`."""
    width = len(pca.mean)
    (tokens, active, errors, squares), vectors = sums[:4], sums[4:].copy()
    total, components, largest = vectors[: 3 * width].reshape(3, width)
    uses = vectors[3 * width :]
    variance = squares - (total**2).sum() / tokens
    active_latents = active / tokens
    kept = {"pca": components, "topk_pca": largest}
    explained = {
        f"explained_{name}": _share(squares - _up_to(values, active_latents), variance)
        for name, values in kept.items()
    }
    shares = np.maximum(components, 0) / max(components.sum(), np.finfo(np.float64).tiny)
    return {
        "explained": _share(errors, variance),
        **explained,
        "active_latents": active_latents,
        "dead_latents": float((uses == 0).mean()),
        "tokens": int(tokens),
        "token_rank": float(np.exp(-(shares * np.log(np.maximum(shares, 1e-300))).sum())),
        "pca_tokens": pca.tokens,
    }


def _share(errors: float, variance: float) -> float:
    """Explained share of the variance; 0 where there is none."""
    return float(1 - errors / variance) if variance > 0 else 0.0


def _up_to(values: Sums, count: float) -> float:
    """Sum of the first `count` values, which need not be a whole number."""
    whole = np.concatenate([[0.0], np.cumsum(values)])
    return float(np.interp(min(count, len(values)), np.arange(len(whole)), whole))
