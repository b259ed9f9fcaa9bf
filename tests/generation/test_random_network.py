import hashlib

import pytest
import torch
import torch.nn.functional as F

from mae.generation.random_network import LARGEST, WIDTHS, random_features, random_weights


def test_the_weights_are_the_same_everywhere():
    weights, biases = random_weights(3)[1]
    assert weights.shape == (64, 32, 3, 3) and biases.shape == (64,)
    assert weights.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.02)
    coarse = (weights.double() * 1e4).round().to(torch.int32).numpy()
    assert hashlib.sha256(coarse.tobytes()).hexdigest()[:16] == "1d32bf25d5ce34a3"


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 5, 9), (7, 1, 1), (2, 200, 90)])
def test_any_size_and_number_of_channels(shape):
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    features = random_features(images)
    assert features.shape == (2, WIDTHS[-1]) and features.isfinite().all()
    assert not torch.equal(features[0], features[1])


def test_larger_images_are_reduced():
    image = torch.rand(1, 1, 2 * LARGEST, LARGEST, generator=torch.Generator().manual_seed(0))
    size = (LARGEST, LARGEST // 2)
    reduced = F.interpolate(image, size=size, mode="bilinear", antialias=True)
    assert torch.equal(random_features(image), random_features(reduced))
    assert not torch.equal(random_features(image), random_features(image.flip(2)))
