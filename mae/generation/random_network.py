"""Fixed random convolutional network: features of images where no other encoder is at hand.

Features of an untrained network rank generative models as those of a trained one do on images
unlike ImageNet's (Naeem et al. 2020, arXiv:2002.09797, section 3.2 and 5.1).  Raw pixels and their
principal components would not do: a Gaussian with the mean and covariance of the pixels has a
Fréchet distance of 0 there by construction.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mae.base.hashing import fold
from mae.base.tensor_hashing import as_tensor, normals

WIDTHS = (32, 64, 128)
"""channels of the layers; the last is the number of features"""

LARGEST = 64
"""longest side in pixels of the images that the network sees; larger ones are reduced"""

CENTRE, SPREAD = 0.5, 0.25
"""usual mean and standard deviation of pixels"""

BIAS = 0.1
"""standard deviation of the biases"""

NAME = "fixed random convolutional network"

VERSION = f"{NAME} 1: {WIDTHS} {LARGEST} {CENTRE} {SPREAD} {BIAS}"
"""identifies its features; another number where the code changes them"""


def random_weights(channels: int) -> list[tuple[Tensor, Tensor]]:
    """Weights [n c 3 3] and biases [n] of each layer, the same bits on every machine."""
    layers, inputs = [], channels
    for layer, width in enumerate(WIDTHS):
        keys = as_tensor(fold(0, layer)), as_tensor(fold(1, layer))
        weights = normals(keys[0], width * inputs * 9).view(width, inputs, 3, 3)
        biases = BIAS * normals(keys[1], width)[0]
        layers.append((weights * (2 / (9 * inputs)) ** 0.5, biases))  # He et al. 2015, equation 10
        inputs = width
    return layers


def random_features(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
    """Features of images in [0, 1]: three layers of 3 x 3 filters, ReLU, and means of 2 x 2.

    Each layer halves the image; the features are the mean over all positions of the last.
    """
    height, width = images.shape[-2:]
    factor = LARGEST / max(height, width)
    if factor < 1:
        size = [max(1, round(side * factor)) for side in (height, width)]
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    maps = (images - CENTRE) / SPREAD
    for weights, biases in random_weights(images.shape[1]):
        padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
        maps = F.conv2d(padded, weights.to(maps), biases.to(maps)).relu()
        maps = F.avg_pool2d(maps, 2, ceil_mode=True)
    return maps.mean((2, 3))
