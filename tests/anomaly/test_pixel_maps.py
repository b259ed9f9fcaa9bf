"""Maps of pixels from scores of patches."""

import torch
import torch.nn.functional as F

from mae.anomaly.patch_features import pixel_features
from mae.anomaly.pixel_maps import image_map
from mae.anomaly.tiles import Tiling, ViewRule


def test_patches_side_by_side_are_interpolated_as_by_torch():
    rule = ViewRule((32, 48), (8, 8))
    maps = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    for size in ((32, 48), (64, 96), (50, 61)):
        expected = F.interpolate(maps[None, None], size=size, mode="bilinear")[0, 0]
        torch.testing.assert_close(image_map(maps, rule, (32, 48), size), expected)


def test_overlapping_patches_are_placed_at_their_centres():
    features = pixel_features()
    image = torch.zeros(1, 256, 128, dtype=torch.uint8)
    image[:, 100:104, 60:62] = 255
    maps = features.maps(features.rule.view(image)[None])[0].square().sum(0)
    found = image_map(maps, features.rule, features.size, (256, 128))
    weights = found / found.sum()
    rows, columns = (torch.arange(side) + 0.5 for side in found.shape)
    assert abs((weights.sum(1) @ rows) - 102) < 2
    assert abs((weights.sum(0) @ columns) - 61) < 1


def test_tiles_of_a_given_side_cover_the_image_alone():
    rule = ViewRule((16, 16), (4, 4), Tiling(side=16))
    image = torch.zeros(1, 30, 21, dtype=torch.uint8)
    view = rule.view(image)
    cells = [side // 4 for side in view.shape[1:]]
    maps = torch.arange(cells[0]).float()[:, None].expand(*cells)  # grows by 1 in 4 rows
    found = image_map(maps, rule, (view.shape[1], view.shape[2]), (30, 21))
    assert found.shape == (30, 21)
    torch.testing.assert_close(found[20, 0] - found[12, 0], torch.tensor(2.0))


def test_only_the_middle_of_long_images_has_own_scores():
    rule = ViewRule((16, 16), (4, 4))
    maps = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    found = image_map(maps, rule, (16, 16), (400, 10))
    assert found.shape == (400, 10)
    torch.testing.assert_close(found[:120], found[:1].expand(120, -1))
    assert found[120:280].std(0).min() > 0.01
