"""Tiles of images, and their maps stitched into one."""

from itertools import pairwise

import pytest
import torch

from mae.anomaly.detector import Member
from mae.anomaly.patch_features import PATCH, STRIDE, contrast_features, pixel_features
from mae.anomaly.scorers import SCORERS
from mae.anomaly.tiles import OVERLAP, Tiling, ViewRule


def noise(*shape, bits=8, seed=0):
    values = torch.randint(0, 2**bits, shape, generator=torch.Generator().manual_seed(seed))
    return values.to(torch.uint8 if bits == 8 else torch.uint16)


def fitted(features, scorer, images):
    one, statistics = SCORERS[scorer], None
    for tiles, maps in features.in_tiles(images, one.is_positional):
        rows = tiles[:1] if one.is_positional else tiles
        numbers = [sample + 1000 * tile for tile in rows for sample in range(len(images))]
        found = one.collect(maps, numbers, 0)
        statistics = found if statistics is None else one.merge(statistics, found)
    assert statistics is not None
    return Member(features, scorer, one.finish(statistics))


@pytest.mark.parametrize("kind", [pixel_features, contrast_features])
def test_the_map_of_tiles_is_that_of_the_whole_image(kind):
    """Features of pixels do not see a tile's edge: no seam is left at all."""
    tiled = kind((32, 32), Tiling(count=3))
    whole = kind(tiled.rule.view_size)
    images = noise(4, 2, *tiled.rule.view_size)
    known = fitted(whole, "pca", images)
    expected = known.maps(images)
    found = known._replace(features=tiled).maps(images)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_positions_of_a_gaussian_are_those_of_the_tiles():
    features = pixel_features((32, 32), Tiling(count=2))
    images = noise(60, 1, *features.rule.view_size)
    images[:, :, :8] //= 8  # dark at the top, in normal images
    member = fitted(features, "gaussian", images)
    odd = images[:1].flip(2)  # dark at the bottom
    found = member.maps(torch.cat([images[:1], odd]))
    assert found.shape == (2, *[(side - PATCH) // STRIDE + 1 for side in features.rule.view_size])
    assert found[1, 0].mean() > 1.5 * found[0, 0].mean()


@pytest.mark.parametrize("shape", [(64, 64), (65, 130), (20, 300), (9, 11), (200, 64)])
@pytest.mark.parametrize("bits", [8, 16])
def test_tiles_at_native_resolution_cover_images_of_any_shape(shape, bits):
    rule = ViewRule((64, 64), (4, 4), Tiling(side=64))
    image = noise(1, *shape, bits=bits)
    view = rule.view(image)
    assert view.dtype == image.dtype
    height, width = shape
    assert (view[:, :height, :width].int() == image.int()).all()  # neither resized nor cut
    covered = torch.zeros(view.shape[-2:])
    size = view.shape[-2], view.shape[-1]
    places = rule.places(size)
    for top, left in places:
        assert top % 4 == left % 4 == 0
        covered[top : top + 64, left : left + 64] += 1
    assert covered.min() == 1
    cells = [torch.full((1, 15, 15), 2.5)] * len(places)
    stitched = rule.stitched(cells, size)[0]
    torch.testing.assert_close(stitched, torch.full_like(stitched, 2.5))
    shown = rule.on_image(stitched, image)
    assert shown.shape[0] <= -(-height // 4) and shown.shape[1] <= -(-width // 4)


def test_neighbouring_tiles_overlap():
    rule = ViewRule((64, 64), (4, 4), Tiling(side=64))
    tops = sorted({place.top for place in rule.places((1000, 64))})
    assert max(b - a for a, b in pairwise(tops)) <= 64 * (1 - OVERLAP) + 4
    assert tops[-1] == 1000 - 64


def test_larger_tiles_are_reduced_with_their_image():
    rule = ViewRule((32, 32), (16, 16), Tiling(side=64))
    assert rule.view(noise(3, 128, 256)).shape == (3, 64, 128)
    assert len(rule.places((64, 128))) == 3 * 5


def test_a_small_defect_is_lost_in_the_whole_image_and_found_in_tiles():
    images = noise(12, 1, 256, 256) // 8 + 100
    odd = images.clone()
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    odd[:, :, 100:104, 60:64] += (60 * ((rows + columns) % 2)).to(torch.uint8)
    odd[:, :, 100:104, 60:64] -= (60 * ((rows + columns + 1) % 2)).to(torch.uint8)
    for features, found_by in (
        (pixel_features((32, 32)), False),
        (pixel_features((64, 64), Tiling(side=64)), True),
    ):
        views = [torch.stack([features.rule.view(one) for one in set_]) for set_ in (images, odd)]
        member = fitted(features, "knn", views[0][:8])
        normal, anomalous = (member.maps(view[8:]).amax((1, 2)) for view in views)
        assert bool((anomalous > 1.5 * normal).all()) == found_by
