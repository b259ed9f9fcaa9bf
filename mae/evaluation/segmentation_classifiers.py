"""Classifiers of patch tokens: multinomial logistic regression and k-NN."""

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.evaluation.features import Matrix
from mae.evaluation.knn import TEMPERATURE, K
from mae.evaluation.probe import is_edge, regularisation_path, standardise
from mae.evaluation.segmentation_scores import count, quality

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""candidates of scikit-learn's C, the inverse of the penalty on the squared weights"""

ITERATIONS = 200
"""maximum number of L-BFGS iterations"""

SIMILARITIES = 2**24
"""similarities held at a time: 64 MB"""

NEVER = -1e30
"""score of classes that are never predicted: finite, since interpolation multiplies it by 0"""

Numbers = npt.NDArray[np.int64]


class LinearClassifier(NamedTuple):
    """Multinomial logistic regression on standardised tokens."""

    weights: Tensor
    """[classes d]"""
    bias: Tensor
    """[classes]"""
    strength: float
    """scikit-learn's C"""
    iterations: int
    """iterations of the fit; ITERATIONS: stopped before it converged"""
    at_edge: bool = False
    """C is the smallest or largest candidate, and better than all in between"""

    def scores(self, tokens: Tensor) -> Tensor:
        """[m d] → [m classes]."""
        return tokens @ self.weights.T + self.bias

    def to(self, device: torch.device | str) -> "LinearClassifier":
        """The same on `device`."""
        return self._replace(weights=self.weights.to(device), bias=self.bias.to(device))

    def columns(self) -> dict[str, npt.NDArray]:
        """Arrays to store, by name."""
        return {name: np.asarray(value) for name, value in self._asdict().items()}

    @classmethod
    def unpack(cls, columns: Mapping[str, npt.NDArray]) -> "LinearClassifier":
        """Classifier that `columns` described, on the CPU."""
        return cls(
            weights=torch.from_numpy(columns["weights"]),
            bias=torch.from_numpy(columns["bias"]),
            strength=columns["strength"].item(),
            iterations=columns["iterations"].item(),
            at_edge=columns["at_edge"].item(),
        )


def fit_linear(tokens: Matrix, labels: Numbers, classes: int, strength: float) -> LinearClassifier:
    """Fit to tokens [m d] of known classes; those without a training patch are never predicted."""
    scaled, _ = standardise(tokens, tokens[:1])
    model = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(scaled, labels)
    coefficients, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # then one row only: the second class against the first
        coefficients = np.vstack([0 * coefficients, coefficients])
        intercept = np.array([0.0, *intercept])
    mean, deviation = tokens.mean(axis=0), tokens.std(axis=0)
    own = coefficients / np.where(deviation > 1e-6, deviation, 1)
    weights, bias = torch.zeros(classes, tokens.shape[1]), torch.full((classes,), NEVER)
    weights[model.classes_] = torch.from_numpy(own).float()
    bias[model.classes_] = torch.from_numpy(intercept - own @ mean).float()
    return LinearClassifier(weights, bias, strength, int(np.max(model.n_iter_)))


def choose_linear(
    tokens: Matrix,
    labels: Numbers,
    images: Numbers,
    classes: int,
    seed: int,
) -> LinearClassifier:
    """Choose C by mean IoU on the patches of a tenth of the images, then fit to all patches.

    Whole images are held out, because patches of one image resemble each other.  Raises UserError
    for fewer than ten images, or where nearly all patches are of one class.
    """
    numbers = np.unique(images)
    if len(numbers) < 10:
        raise UserError(f"--train: {len(numbers)} images with classes; a tenth must choose")
    order = np.argsort(fold(seed, Stream.ORDER, numbers), kind="stable")
    held_out = np.isin(images, numbers[order[: len(numbers) // 10]])
    if len(np.unique(labels[~held_out])) < 2:
        raise UserError("--train: nearly all patches are of one class; the probe needs two classes")
    scaled, scaled_held_out = standardise(tokens[~held_out], tokens[held_out])
    truth = torch.from_numpy(labels[held_out])[None]
    with threadpool_limits(1 if tokens.size < 10**6 else None), warnings.catch_warnings():
        # A fit that stops early is compared by its mean IoU like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = regularisation_path(
            scaled, labels[~held_out], scaled_held_out, STRENGTHS, ITERATIONS
        )
        reached = [
            quality(count(torch.from_numpy(fit.predicted)[None], truth, classes)[0]).mean_iou
            for fit in fits
        ]
        best = STRENGTHS[int(np.argmax(reached))]  # the strongest penalty among equals
        linear = fit_linear(tokens, labels, classes, best)
    return linear._replace(at_edge=is_edge(np.array(reached)))


class KNNClassifier:
    """Vote of the K most similar training patches, as in DINO (Caron et al. 2021, section 4.1)."""

    def __init__(
        self, tokens: Matrix, labels: Numbers, classes: int, device: torch.device | str
    ) -> None:
        self.tokens = torch.nn.functional.normalize(torch.from_numpy(tokens).to(device), dim=1)
        self.labels = torch.from_numpy(labels).to(device)
        self.classes = classes

    def scores(self, tokens: Tensor) -> Tensor:
        """[m d] → [m classes]: share of the votes, each of weight exp(cosine / TEMPERATURE)."""
        found = []
        for part in tokens.split(max(1, SIMILARITIES // len(self.tokens))):
            similar = torch.nn.functional.normalize(part, dim=1) @ self.tokens.T
            near = similar.topk(min(K, len(self.tokens)), dim=1)
            share = (near.values / TEMPERATURE).softmax(dim=1)
            votes = torch.zeros(len(part), self.classes, device=tokens.device)
            found.append(votes.scatter_add_(1, self.labels[near.indices], share))
        return torch.cat(found)
