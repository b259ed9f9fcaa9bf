import numpy as np
import pytest
import torch
from PIL import Image

from mae.objectives.capabilities import Reconstruction
from mae.pictures.drawing import (
    ERROR_TOP,
    GAP,
    HIDDEN,
    LINE,
    STEPS,
    TITLE,
    code_colours,
    code_maps,
    compared,
    contrast,
    covered,
    css_gradient,
    displayable_alone,
    error_maps,
    heat_map,
    ramp,
    reconstruction_panel,
    save_png,
    stacked,
    strips,
    tile,
)
from tests.objectives.mae.test_model import small_mae, some_images


@pytest.mark.parametrize(("c", "h", "w"), [(1, 16, 16), (3, 8, 24), (7, 200, 100)])
def test_tiles_have_true_places_and_colours(c, h, w):
    pictures = torch.rand(2, c, h, w)
    factor = -(-128 // max(h, w)) if max(h, w) < 128 else 1
    canvas = np.asarray(tile({"a": pictures, "b": 1 - pictures}))
    top, left = TITLE + h * factor + GAP, GAP + w * factor + GAP
    cell = canvas[top : top + h * factor : factor, left : left + w * factor : factor]
    shown = (1 - pictures[1])[:3] if c >= 3 else (1 - pictures[1])[:1].expand(3, -1, -1)
    expected = (shown * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(cell - expected).max() <= 1


def test_names_are_below_their_rows():
    pictures = {"a": torch.ones(6, 1, 128, 128), "b": torch.ones(6, 1, 128, 128)}
    plain, named = tile(pictures), tile(pictures, names=[f"key-{i}\ncat" for i in range(6)])
    assert (named.width, named.height) == (plain.width, plain.height + 3 * LINE)
    dark = np.asarray(named.convert("L")) < 200
    for row in range(3):
        start = TITLE + row * (128 + GAP + LINE) + 128
        assert dark[start : start + LINE + GAP, : named.width // 2].any()  # two blocks of rows
        assert dark[start : start + LINE + GAP, named.width // 2 :].any()


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_hidden_pixels_have_a_colour_that_gray_images_lack(channels):
    mask = torch.zeros(1, channels, 4, 4)
    mask[..., :2] = 1
    shown = covered(torch.full((1, channels, 4, 4), 0.5), mask)[0]
    assert shown.shape == (3, 4, 4)
    assert shown[:, 0, 0].tolist() == pytest.approx(list(HIDDEN))
    assert len(set(shown[:, 0, 0].tolist())) == 3 and shown[:, 0, 3].tolist() == [0.5] * 3


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


def luminance(colours: np.ndarray) -> np.ndarray:
    """CIE lightness of sRGB in [0, 1], 0 to 100 (IEC 61966-2-1, CIE 1976)."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, y * 24389 / 27)


def test_lightness_rises_evenly_from_dark_to_light():
    lightness = luminance(ramp().double().numpy())
    steps = np.diff(lightness)
    assert lightness[0] < 10 and lightness[-1] > 92
    assert steps.min() > 0 and steps.max() < 2 * steps.mean()


def test_a_heat_map_shows_each_patch_in_its_colour_and_leaves_nan_blank():
    values = torch.tensor([[0.0, 2.0, 5.0], [1.0, torch.nan, -1.0]])
    picture = np.asarray(heat_map(values, top=2.0, size=(8, 12)))
    assert picture.shape == (8, 12, 4)
    colours = (ramp() * 255).round().numpy()
    at = {(0, 0): 0, (0, 1): STEPS - 1, (0, 2): STEPS - 1, (1, 0): (STEPS - 1) // 2, (1, 2): 0}
    for (row, column), place in at.items():
        patch = picture[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
        assert (patch == patch[0, 0]).all() and patch[0, 0, 3] == 255
        assert np.abs(patch[0, 0, :3] - colours[place]).max() <= 2
    assert (picture[4:, 4:8, 3] == 0).all()


def test_css_gradient_has_both_ends():
    first, *_, last = css_gradient(5).removesuffix(")").split(",")[1:]
    for written, colour in ((first, ramp()[0]), (last, ramp()[-1])):
        numbers = [int(written[i : i + 2], 16) for i in (1, 3, 5)]
        assert numbers == [round(255 * part) for part in colour.tolist()]


def test_a_code_has_one_colour_in_every_picture_unlike_its_neighbours():
    colours = code_colours(512)
    assert torch.equal(code_colours(8), colours[:8])
    assert ((colours >= 0) & (colours <= 1)).all()
    apart = (colours[:, None] - colours[None]).abs().sum(dim=-1)
    apart.fill_diagonal_(9)
    assert apart[:16, :16].min() > 0.1 and apart.min() > 0  # no two codes have the same colour
    codes = torch.tensor([[[3, 500], [3, 0]]])
    maps = code_maps(codes, 512, (4, 6))
    assert maps.shape == (1, 3, 4, 6)
    assert torch.equal(maps[0, :, 0, 0], colours[3]) and torch.equal(maps[0, :, 1, 2], colours[3])
    assert torch.equal(maps[0, :, 0, 5], colours[500]) and torch.equal(maps[0, :, 3, 3], colours[0])


def test_errors_are_heat_maps_on_a_scale_that_does_not_change():
    errors = torch.zeros(1, 2, 1, 3)
    errors[0, :, 0, 1] = torch.tensor([ERROR_TOP, 0.0])  # half of it on average
    errors[..., 2] = 2 * ERROR_TOP
    colours = error_maps(errors)[0, :, 0].T
    assert torch.equal(colours[0], ramp()[0]) and torch.equal(colours[2], ramp()[-1])
    assert torch.equal(colours[1], ramp()[round((STEPS - 1) / 2)])


def test_columns_show_a_corrupted_input_beside_what_was_made_of_it():
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    truth = images.float() / 255
    plain = compared(images, Reconstruction(truth))
    assert list(plain) == ["original", "reconstruction", "error, 0 to 0.25"]
    assert torch.equal(plain["original"], plain["reconstruction"])
    noisy = compared(images, Reconstruction(truth, inputs=truth + 0.5))
    assert list(noisy) == ["original", "input", "denoised", "error, 0 to 0.25"]
    assert noisy["input"].max() <= 1 and (noisy["input"] >= truth).all()


def test_pictures_without_an_original_share_one_stretch():
    originals = (torch.rand(4, 3, 16, 16) * 1000 + 3000).to(torch.int32).to(torch.uint16)
    samples = originals.float() / 65535
    shown = displayable_alone(samples, originals)
    assert shown.quantile(0.02) < 0.05 and shown.quantile(0.98) > 0.95
    assert contrast(originals).shape == (4, 1, 1, 1) and contrast(originals).max() < 0.02
    small = torch.rand(2, 1, 8, 8)
    assert torch.equal(displayable_alone(small, torch.zeros(1, 1, 8, 8, dtype=torch.uint8)), small)


def test_strips_hold_rows_of_pictures_and_blocks_are_stacked():
    red, green = torch.zeros(3, 64, 64), torch.zeros(3, 64, 64)
    red[0], green[1] = 1, 1
    block = strips("title", {"first": torch.stack([red, green]), "": green[None]})
    pixels = np.asarray(block)
    assert pixels.shape == (TITLE + TITLE + 132 + 132, 2 * 132 + GAP, 3)
    assert tuple(pixels[2 * TITLE + 60, GAP + 60]) == (255, 0, 0)
    assert tuple(pixels[2 * TITLE + 60, GAP + 132 + 60]) == (0, 255, 0)
    assert tuple(pixels[2 * TITLE + 132 + 60, GAP + 60]) == (0, 255, 0)
    both = stacked([block, tile({"a": red[None]})])
    assert both.height == block.height + TITLE + (TITLE + 132) and both.width == block.width
    assert np.array_equal(np.asarray(both)[: block.height], pixels)
