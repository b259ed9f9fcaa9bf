"""Features of pixels: contrast, and differences of pairs."""

import pytest
import torch

from mae.anomaly.patch_features import (
    SURROUNDINGS,
    PatchFeatures,
    contrast,
    contrast_features,
    difference,
    pixel_features,
)
from mae.anomaly.tiles import Tiling, ViewRule


def scene(count=2, size=48, seed=0):
    """Smooth texture, as floats in [20, 180]."""
    noise = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
    return (100 + 150 * smooth).clamp(20, 180)


def test_contrast_does_not_change_with_exposure():
    image = scene()
    found = [contrast((image * gain).round().to(torch.uint8)) for gain in (1.0, 0.6)]
    assert (found[0] - found[1]).abs().mean() < 0.06
    deep = contrast((image * 257).round().to(torch.int32).to(torch.uint16))
    assert (found[0] - deep).abs().mean() < 0.02


def test_contrast_equals_its_definition():
    image = scene()[:1].round().to(torch.uint8)
    bright, half = (image[0, 0] / 255 + 0.02).log(), SURROUNDINGS // 2
    middle = bright[half:-half, half:-half]
    means = bright.unfold(0, SURROUNDINGS, 1).unfold(1, SURROUNDINGS, 1).mean((-1, -2))
    found = contrast(image)[0, 0, half:-half, half:-half]
    ratio = found / (middle - means)
    torch.testing.assert_close(
        ratio, torch.full_like(ratio, ratio.median().item()), rtol=1e-2, atol=0
    )
    assert contrast(image).square().mean().sqrt().item() == pytest.approx(1, abs=0.1)


def test_contrast_of_an_even_image_is_nothing():
    assert contrast(torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)).abs().max() < 1e-3


@pytest.mark.parametrize("kind", [pixel_features, contrast_features])
def test_a_shifted_reference_is_no_difference_and_a_defect_is(kind):
    features = difference(kind((40, 40)))
    whole = scene(size=48).round().to(torch.uint8)
    image, reference = whole[..., 4:44, 4:44], whole[..., 3:43, 6:46]
    found = features.maps(torch.cat([image, reference], dim=1)).norm(dim=1)
    inner = found[:, 1:-1, 1:-1]
    odd = image.clone()
    odd[..., 20:24, 20:24] = 255
    after = features.maps(torch.cat([odd, reference], dim=1)).norm(dim=1)
    scale = kind((40, 40)).maps(image).std() * 8
    assert inner.max() < 0.3 * scale
    assert after[:, 3:6, 3:6].amax((1, 2)).min() > 3 * inner.max()


def test_tiles_of_pairs_are_those_of_the_whole():
    tiled = difference(contrast_features((24, 24), Tiling(count=2)))
    size = tiled.rule.view_size
    whole = scene(count=4, size=size[0]).round().to(torch.uint8)
    pairs = torch.cat([whole[:2], whole[2:]], dim=1)
    (tiles,) = [maps for _, maps in tiled.in_tiles(pairs, together=True)]
    expected = difference(contrast_features(size)).maps(pairs)
    torch.testing.assert_close(
        tiles[:, :, 1:4, 1:4], expected[:, :, 1:4, 1:4], rtol=1e-3, atol=1e-4
    )


def test_tokens_are_compared_with_their_neighbours():
    def tokens(images):
        return images.float() / 255

    features = PatchFeatures("encoder", "0", ViewRule((6, 6), (1, 1)), tokens, layers=1)
    whole = torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    whole = whole.to(torch.uint8)
    pairs = torch.cat([whole[..., 1:7, 1:7], whole[..., 2:8, 0:6]], dim=1)
    found = difference(features).maps(pairs)
    assert found.shape == (1, 3, 6, 6)
    assert found[..., 1:, :-1].abs().max() == 0
