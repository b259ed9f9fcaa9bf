"""Trivial generative model of images: a Gaussian fitted to the principal components of pixels."""

import numpy as np
from jaxtyping import Float, Int, Shaped
from torch import Tensor, from_numpy

from mae.base.tensor_hashing import normals
from mae.networks.patches import unit_values

COMPONENTS = 64
"""maximum number of principal components"""

NAME = "Gaussian of pixels"


def gaussian_samples(
    images: Shaped[Tensor, "m c h w"], seeds: Int[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Images in [0, 1], one per seed, from a Gaussian with the moments of integer `images`.

    Their mean and covariance in the span of the leading COMPONENTS principal components.
    """
    from sklearn.decomposition import PCA  # takes a second

    pixels = unit_values(images).flatten(1).numpy()
    count = min(COMPONENTS, len(pixels) - 1, pixels.shape[1])
    fitted = PCA(count, svd_solver="randomized", random_state=0).fit(pixels)
    spread = np.sqrt(fitted.explained_variance_.clip(0))
    drawn = normals(seeds, count).numpy() * spread @ fitted.components_ + fitted.mean_
    return from_numpy(drawn.astype(np.float32)).view(-1, *images.shape[1:]).clamp(0, 1)
