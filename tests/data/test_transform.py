from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import RandomResizedCrop

from mae.base.hashing import fold, uniforms
from mae.data.transform import (
    DRAWS,
    LONGEST,
    View,
    apply_view,
    apply_view_into,
    center_view,
    draw_views,
    random_view,
    stack,
    trim,
)

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
GOLDEN = [
    (13, 150, 304, 238, True),
    (18, 38, 309, 343, True),
    (11, 27, 255, 226, False),
    (0, 83, 364, 356, False),
]


def views(height, width, count=4000, scale=SCALE, ratio=RATIO, flip=True, clamp=False):
    draws = draw_views(fold(0, np.arange(count)))
    return [random_view(height, width, row, scale, ratio, flip, clamp) for row in draws]


def to_tensor(pixels):
    """[h w c] or [h w] → [c h w], channels last in memory as `decode` returns them."""
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def by_pillow(pixels, view, size):
    """Crop, resize and mirror the [h w c] image with Pillow."""
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    resized = Image.fromarray(pixels).crop(box).resize(size[::-1], Image.Resampling.BICUBIC)
    pixels = np.array(resized)
    return pixels[:, ::-1].copy() if view.flip else pixels


def difference(ours, theirs):
    return (ours.int() - to_tensor(theirs).int()).abs().float()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (64, 64), (1, 1), (3, 200), (200, 3)])
def test_random_view_stays_inside(height, width):
    for view in views(height, width, 1000):
        assert view.height >= 1 and 0 <= view.top <= height - view.height
        assert view.width >= 1 and 0 <= view.left <= width - view.width


@pytest.mark.parametrize(("height", "width"), [(375, 500), (1, 1), (3, 200), (200, 3)])
def test_clamped_view_stays_inside(height, width):
    for view in views(height, width, 1000, scale=(0.0001, 1.0), clamp=True):
        assert view.height >= 1 and 0 <= view.top <= height - view.height
        assert view.width >= 1 and 0 <= view.left <= width - view.width


@pytest.mark.parametrize(("clamp", "share"), [(True, 0.517), (False, 0.432)])
def test_clamped_views_are_larger_than_redrawn_ones(clamp, share):
    """Mean share of an image of 375 x 500 px, by integration over areas and ratios."""
    found = views(375, 500, 20_000, scale=(0.08, 1.0), clamp=clamp)
    areas = [view.height * view.width / (375 * 500) for view in found]
    assert np.mean(areas) == pytest.approx(share, abs=0.006)  # 4 standard errors


def test_clamped_views_are_those_of_the_definition():
    """One area, one ratio, both sides cut to the image's, a uniform place."""
    draws = draw_views(fold(1, np.arange(500)))
    for row in draws:
        area, ratio, top, left = row[:4]
        target = (0.08 + 0.92 * area) * 300 * 200
        aspect = (3 / 4) * (16 / 9) ** ratio
        h, w = min(300, round((target / aspect) ** 0.5)), min(200, round((target * aspect) ** 0.5))
        wanted = (int(top * (300 - h + 1)), int(left * (200 - w + 1)), h, w, False)
        found = random_view(300, 200, row, (0.08, 1.0), RATIO, False, clamp=True)
        assert found[:5] == wanted


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (375, 500, SCALE, RATIO),
        (500, 375, (0.08, 1.0), RATIO),
        (100, 100, (0.5, 0.6), (1.0, 1.0)),
        (120, 300, SCALE, RATIO),  # so wide that many tries and some fallbacks are needed
    ],
)
def test_views_are_distributed_as_torchvision_draws_them(height, width, scale, ratio):
    count = 4000
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)], float
    )
    ours = np.array([view[:4] for view in views(height, width, count, scale, ratio)], float)
    pairs = zip(statistics(ours, height, width), statistics(theirs, height, width), strict=True)
    for a, b in pairs:
        bound = 5 * np.sqrt((a.var() + b.var()) / count) + 1e-9
        assert abs(a.mean() - b.mean()) < bound
        assert abs(a.std() - b.std()) < bound  # a deviation is estimated no worse than a mean


def statistics(views, height, width):
    """Area, log ratio and relative place of [top left height width] rows."""
    top, left, h, w = views.T
    yield h * w / (height * width)
    yield np.log(w / h)
    yield top / height
    yield left / width


def test_every_place_is_taken_equally_often():
    # A crop of 28 x 28 fits into 40 x 40 at 13 x 13 places, the last row and column included.
    square = views(40, 40, 13_000, scale=(0.49, 0.49), ratio=(1.0, 1.0))
    assert {(view.height, view.width) for view in square} == {(28, 28)}
    for places in ([view.top for view in square], [view.left for view in square]):
        counts = np.bincount(places, minlength=13)
        assert len(counts) == 13
        assert ((counts - 1000) ** 2 / 1000).sum() < 12 + 5 * np.sqrt(24)  # chi-square


def test_area_and_ratio_keep_to_their_ranges():
    for view in views(600, 800, 1000):
        assert 0.2 * 0.98 < view.height * view.width / (600 * 800) <= 1
        assert 0.75 * 0.98 < view.width / view.height < 4 / 3 * 1.02


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (10, 1000, (0, 493, 10, 13)),
        (1000, 10, (493, 0, 13, 10)),
        (1, 50, (0, 24, 1, 1)),
    ],
)
def test_extreme_shapes_fall_back_to_the_largest_allowed_crop(height, width, expected):
    assert {view[:4] for view in views(height, width, 50)} == {expected}


def test_a_ratio_that_always_fits_falls_back_to_the_whole():
    # Every try asks for more than the image: as a scale above 1 would.
    (view,) = views(30, 40, 1, (2.0, 2.0), RATIO, False)
    assert view == View(0, 0, 30, 40, False)


def test_a_view_depends_on_its_key_alone():
    assert views(375, 500, 20) == views(375, 500, 20)
    assert len(set(views(375, 500, 1000))) > 990


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
def test_draws_of_a_batch_are_those_of_each_key(keys):
    draws = draw_views(np.array(keys, np.uint64))
    assert draws.shape == (len(keys), DRAWS)
    for key, row in zip(keys, draws, strict=True):
        assert row.tolist() == uniforms(np.array([key], np.uint64), DRAWS)[0].tolist()


def test_views_are_the_same_everywhere():
    # Runs continue on other machines and with other versions: these numbers never change.
    assert [view[:5] for view in views(375, 500, 4)] == GOLDEN
    assert views(10, 1000, 1) == [View(0, 493, 10, 13, True)]


def test_every_other_view_is_mirrored():
    count = 4000
    flips = np.array([view.flip for view in views(375, 500, count)])
    assert abs(flips.mean() - 0.5) < 5 * 0.5 / np.sqrt(count)
    areas = np.array([view.height * view.width for view in views(375, 500, count)])
    assert abs(np.corrcoef(flips, areas)[0, 1]) < 5 / np.sqrt(count)
    assert not any(view.flip for view in views(375, 500, 100, flip=False))


def test_flipping_changes_nothing_else():
    with_flip, without = views(90, 80, 50), views(90, 80, 50, flip=False)
    assert [view[:4] for view in with_flip] == [view[:4] for view in without]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("view", "size"),
    [
        (View(0, 0, 120, 160, False), (32, 32)),
        (View(13, 21, 77, 100, True), (48, 32)),
        (View(5, 3, 20, 24, False), (64, 64)),
        (View(50, 60, 32, 32, True), (32, 32)),
    ],
    ids=["smaller", "smaller-flipped", "larger", "equal-flipped"],
)
def test_apply_view_agrees_with_pillow(make_image, channels, view, size):
    pixels = make_image(5, (120, 160), channels)
    ours = apply_view(to_tensor(pixels), view, size)
    assert ours.dtype == torch.uint8 and ours.shape == (channels, *size)
    far = difference(ours, by_pillow(pixels, view, size))
    assert far.mean() <= 0.5 and far.max() <= 2


def test_apply_view_agrees_with_pillow_on_noise():
    pixels = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    for view in (View(0, 0, 97, 131, False), View(3, 5, 40, 30, True)):
        far = difference(
            apply_view(to_tensor(pixels), view, (56, 48)), by_pillow(pixels, view, (56, 48))
        )
        assert far.mean() <= 0.5 and far.max() <= 2


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("channels_last", [True, False])
def test_any_number_of_channels_is_resized_as_each_alone(channels, channels_last):
    pixels = np.random.default_rng(1).integers(0, 256, (60, 70, channels), np.uint8)
    image = to_tensor(pixels) if channels_last else to_tensor(pixels).contiguous()
    view = View(3, 5, 50, 41, True)
    ours = apply_view(image, view, (32, 24))
    for channel in range(channels):
        assert difference(ours[channel], by_pillow(pixels[..., channel], view, (32, 24))).max() <= 1


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("flip", [False, True])
def test_sixteen_bits_stay_sixteen(channels, flip):
    pixels = np.random.default_rng(2).integers(0, 2**16, (60, 70, channels), np.uint16)
    view = View(3, 5, 50, 41, flip)
    ours = apply_view(to_tensor(pixels), view, (64, 96))
    assert ours.dtype == torch.uint16 and ours.shape == (channels, 64, 96)
    for channel in range(channels):
        exact = by_pillow(pixels[..., channel].astype(np.float32), view, (64, 96))
        assert (exact < 0).any() and (exact >= 2**16).any()  # bicubic overshoots
        expected = exact.round().clip(0, 2**16 - 1)
        assert difference(ours[channel], expected.astype(np.int32)).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels_last", [True, False])
def test_views_are_put_into_their_place_of_any_batch(dtype, channels_last):
    pixels = np.random.default_rng(3).integers(0, np.iinfo(dtype).max, (60, 70, 3), dtype)
    batch = torch.zeros(3, 32, 24, 3, dtype=to_tensor(pixels).dtype).permute(0, 3, 1, 2)
    batch = batch if channels_last else batch.contiguous()
    view = View(3, 5, 50, 41, True)
    apply_view_into(to_tensor(pixels), view, batch[1])
    assert torch.equal(batch[1], apply_view(to_tensor(pixels), view, (32, 24)))
    assert not batch[0].any() and not batch[2].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_center_view_of_equal_size_is_the_image(make_image, channels):
    image = to_tensor(make_image(0, (40, 56), channels))
    assert torch.equal(center_view(image, (40, 56), 1.0), image)


SIZES = [(32, 32), (96, 96), (224, 224), (256, 256), (384, 384), (32, 48), (224, 96)]


def timm_view(image, size, crop_pct):
    """View of a Pillow image by timm's own transform, uint8 [h w c]."""
    settings = {"interpolation": "bicubic", "normalize": False}
    transform: Any = create_transform((3, *size), crop_pct=crop_pct, **settings)
    return transform(image).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0, 0.3, None])
def test_center_view_of_a_photograph_is_timms(shared_data, size, crop_pct):
    """Pillow resizes for timm, torch for us: in less than 1 % of pixels, by at most 2 of 255."""
    for name in ("01.png", "04.png"):  # 512 x 768 and 768 x 512 px
        with Image.open(shared_data / "kodak" / name) as opened:
            image = opened.convert("RGB")
        usual = crop_pct or (0.875 if max(size) <= 224 else 1.0)
        theirs = timm_view(image, size, usual)
        ours = center_view(to_tensor(np.array(image)), size, crop_pct)
        far = difference(ours, theirs)
        assert far.max() <= 2 and (far > 0).float().mean() < 0.01


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.sampled_from(SIZES),
    st.floats(0.25, 1.0),
)
@example(375, 500, (32, 32), 0.875)  # floor(32 / .875) = 36, not 37
@example(255, 254, (224, 224), 1.0)  # an offset of half a pixel
def test_center_view_is_timms_for_all_shapes(height, width, size, crop_pct):
    """Of noise, which shows any shift: a pixel off differs by tens of 255."""
    assume(max(height, width) <= LONGEST * min(height, width))
    pixels = np.random.default_rng(height).integers(0, 256, (height, width), np.uint8)
    theirs = timm_view(Image.fromarray(pixels), size, crop_pct)
    far = difference(center_view(to_tensor(pixels), size, crop_pct), theirs)
    assert far.mean() < 2


@pytest.mark.parametrize(("shape", "size"), [((9, 4000), (32, 32)), ((4000, 9), (32, 48))])
def test_centre_of_a_very_long_image_takes_little_memory(make_image, shape, size):
    """Resized whole, these would have 16,000 pixels and more on a side."""
    image = make_image(3, shape)
    assert max(trim(to_tensor(image)).shape) == LONGEST * 9
    found = center_view(to_tensor(image), size, 0.875)
    wanted = timm_view(Image.fromarray(image), size, 0.875)
    assert difference(found, wanted).mean() < 3


def test_stack_is_contiguous():
    images = [torch.zeros(8, 6, 3, dtype=torch.uint8).permute(2, 0, 1) for _ in range(2)]
    batch = stack(images)
    assert batch.shape == (2, 3, 8, 6) and batch.is_contiguous()
