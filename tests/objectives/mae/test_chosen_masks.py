import numpy as np
import pytest
import torch
from PIL import Image

from mae.base.errors import UserError
from mae.objectives.mae.chosen_masks import (
    block_masking,
    choose_masks,
    drawn_mask,
    grid_mask,
    grid_of,
)
from mae.objectives.mae.masking import binary_mask
from tests.objectives.mae.test_model import small_mae, some_images

SEEDS = torch.arange(6)


def hidden_by(pattern, ratios=(), **settings) -> list[torch.Tensor]:
    model = small_mae(img_size=(16, 24), **settings)
    images = some_images(b=6, h=16, w=24)
    masks = choose_masks(str(pattern), ratios, model)
    return [binary_mask(mask.draw(images, SEEDS)).view(-1, *grid_of(model)) for mask in masks]


def test_random_equals_the_training_masks():
    model, images = small_mae(), some_images()
    [mask] = choose_masks("random", [], model)
    ours, theirs = mask.draw(images, torch.arange(4)), model.draw(images, torch.arange(4))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert (mask.pattern, mask.hidden) == ("random", 0.75)


@pytest.mark.parametrize("pattern", ["random", "block"])
def test_masks_of_several_ratios_are_nested(pattern):
    half, most = hidden_by(pattern, [0.5, 0.875])
    assert (half.mean((1, 2)) == 0.5).all()
    assert (most.mean((1, 2)) == 0.875).all()
    assert (most >= half).all()


def test_blocks_are_large_and_each_image_has_its_own():
    split = block_masking(torch.arange(200), (14, 14), 0.5)
    hidden = binary_mask(split).view(-1, 14, 14)
    random = torch.rand(200, 196).argsort(1).argsort(1).view(-1, 14, 14) < 98

    def borders(masks):  # between a hidden and a visible patch
        masks = masks.float()
        down, across = masks.diff(dim=1).abs(), masks.diff(dim=2).abs()
        return (down.sum((1, 2)) + across.sum((1, 2))).mean()

    assert borders(hidden) < 0.35 * borders(random)
    assert len({tuple(mask.flatten().tolist()) for mask in hidden}) == 200
    again = block_masking(torch.arange(100, 200), (14, 14), 0.5)
    assert torch.equal(binary_mask(again), hidden[100:].flatten(1))
    assert hidden.mean(0).min() > 0.05  # any place can be hidden


def test_the_grid_keeps_one_patch_of_four():
    [hidden] = hidden_by("grid")
    expected = torch.ones(4, 6)
    for row in range(0, 4, 2):
        for column in range(0, 6, 2):
            expected[row, column] = 0
    assert torch.equal(hidden, expected.expand(6, -1, -1))
    assert grid_mask((3, 3)).sum() == 5


def test_a_drawn_mask_hides_white_patches(tmp_path):
    pixels = np.zeros((40, 60), np.uint8)
    pixels[:20, :30] = 255
    pixels[20:24, 30:40] = 255  # less than half of its patch
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    [hidden] = hidden_by(tmp_path / "mask.png")
    expected = torch.zeros(4, 6)
    expected[:2, :3] = 1
    assert torch.equal(hidden, expected.expand(6, -1, -1))
    assert drawn_mask(tmp_path / "mask.png", (2, 2)).tolist() == [True, False, False, False]


@pytest.mark.parametrize("kind", ["1", "P", "RGB", "L", "I;16", "RGBA"])
def test_white_is_hidden_and_gray_is_not_however_it_is_stored(kind, tmp_path):
    """A dark gray of 16 bits, 300 of 65,535, is far above 127."""
    levels = np.full((8, 12), 1 / 200)
    levels[:, :6] = 1
    if kind == "I;16":
        picture = Image.fromarray((levels * 65_535).astype(np.uint16))
    else:
        gray = Image.fromarray((levels * 255).round().astype(np.uint8))
        picture = gray.convert("RGB").quantize(2) if kind == "P" else gray.convert(kind)
    picture.save(tmp_path / "mask.png")
    assert drawn_mask(tmp_path / "mask.png", (1, 2)).tolist() == [True, False]


@pytest.mark.parametrize(
    ("pattern", "ratios", "message"),
    [
        ("stripes", [], "--mask: stripes is none of random, block, grid, and no .png"),
        ("grid", [0.5], "--mask-ratio: the share that grid hides is fixed; omit the option"),
        ("random", [0.99], "hides 24 of 24 patches"),
        ("block", [0.5, 0.0], "hides 0 of 24 patches"),
        ("{tmp}/black.png", [], "hides 0 of 24 patches"),
        ("{tmp}/text.png", [], "text.png: does not decode"),
        ("{tmp}/nowhere.png", [], "nowhere.png: cannot be read: No such file"),
        ("{tmp}/clear.png", [], "clear.png: has transparent pixels"),
    ],
)
def test_impossible_masks_are_refused(pattern, ratios, message, tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "black.png")
    Image.new("RGBA", (9, 9)).save(tmp_path / "clear.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=message.replace("{tmp}", "")):
        hidden_by(pattern.format(tmp=tmp_path), ratios)
