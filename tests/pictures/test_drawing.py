import numpy as np
import pytest
import torch
from PIL import Image

from mae.pictures.drawing import GAP, TITLE, reconstruction_panel, save_png, tile
from tests.objectives.mae.test_model import small_mae, some_images


@pytest.mark.parametrize(("c", "h", "w"), [(1, 16, 16), (3, 8, 24), (7, 200, 100)])
def test_pictures_stand_where_they_should_in_true_colours(c, h, w):
    pictures = torch.rand(2, c, h, w)
    factor = -(-128 // max(h, w)) if max(h, w) < 128 else 1
    canvas = np.asarray(tile({"a": pictures, "b": 1 - pictures}))
    top, left = TITLE + h * factor + GAP, GAP + w * factor + GAP
    cell = canvas[top : top + h * factor : factor, left : left + w * factor : factor]
    shown = (1 - pictures[1])[:3] if c >= 3 else (1 - pictures[1])[:1].expand(3, -1, -1)
    expected = (shown * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(cell - expected).max() <= 1


def test_panel_shows_visible_patches_unchanged_and_fixed_masks(tmp_path):
    model = small_mae().train()
    images, seeds = some_images(), torch.arange(4)
    first = reconstruction_panel(model, images, seeds, "title")
    assert model.training
    with torch.no_grad():
        model.decoder.pred.weight.mul_(3)
    second = reconstruction_panel(model, images, seeds, "title")
    width = 128 + GAP
    left, right = np.asarray(first), np.asarray(second)
    assert np.array_equal(left[:, : 2 * width], right[:, : 2 * width])  # original, masked
    assert not np.array_equal(left[:, 2 * width :], right[:, 2 * width :])

    save_png(first, tmp_path / "deep" / "panel.png")
    with Image.open(tmp_path / "deep" / "panel.png") as reread:
        assert np.array_equal(np.asarray(reread), left)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["panel.png"]
