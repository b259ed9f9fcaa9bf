"""Have the features collapsed?  Pure functions of a matrix of features, [n d], one row an image."""

import numpy as np
import numpy.typing as npt

from mae.evaluation.features import Matrix
from mae.evaluation.knn import directions

EPS = 1e-7
"""added to each share of the spectrum, as in RankMe"""

DEAD = 0.01
"""a dimension that varies less than this share of the healthy 1/sqrt(d) is dead"""


def rankme(features: Matrix) -> float:
    """RankMe (Garrido et al. 2023, equation 1) of [n d] features: 1 to min(n, d).

    exp of the entropy of the singular values as shares of their sum; not centred, as there.
    """
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = values / max(values.sum(), np.finfo(np.float64).tiny) + EPS
    return float(np.exp(-(shares * np.log(shares)).sum()))


def relative_deviations(features: Matrix) -> npt.NDArray[np.float64]:
    """[d] standard deviations of the L2-normalised features, over 1/sqrt(d).

    What SimSiam (Chen and He 2021, figure 2) watches for collapse.
    """
    return directions(features).astype(np.float64).std(axis=0) * features.shape[1] ** 0.5


def mean_cosine(features: Matrix) -> float:
    """Mean cosine similarity over all pairs of different rows of [n d]; 1 for a single row."""
    unit = directions(features).astype(np.float64)
    n, total = len(unit), unit.sum(axis=0)
    if n == 1:
        return 1.0
    return float((total @ total - np.square(unit).sum()) / (n * (n - 1)))
