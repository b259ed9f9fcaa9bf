import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from mae.base.hashing import fold, uniforms
from mae.data.transform import (
    DRAWS,
    View,
    apply_view,
    apply_view_into,
    center_view,
    draw_views,
    random_view,
    stack,
)

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
GOLDEN = [
    (13, 150, 304, 238, True),
    (18, 38, 309, 343, True),
    (11, 27, 255, 226, False),
    (0, 83, 364, 356, False),
]


def views(height, width, count=4000, scale=SCALE, ratio=RATIO, flip=True):
    draws = draw_views(fold(0, np.arange(count)))
    return [random_view(height, width, row, scale, ratio, flip) for row in draws]


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
    assert view == (0, 0, 30, 40, False)


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
    assert views(375, 500, 4) == GOLDEN
    assert views(10, 1000, 1) == [(0, 493, 10, 13, True)]


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


@pytest.mark.parametrize(
    ("shape", "size", "crop_pct", "view"),
    [
        ((100, 200), (50, 50), 1.0, View(0, 50, 100, 100, False)),
        ((100, 200), (50, 50), 0.5, View(25, 75, 50, 50, False)),
        ((256, 256), (224, 224), 0.875, View(16, 16, 224, 224, False)),
        ((200, 100), (32, 64), 1.0, View(75, 0, 50, 100, False)),
        ((1, 1), (8, 8), 0.875, View(0, 0, 1, 1, False)),
    ],
)
def test_center_view_keeps_the_centre(make_image, shape, size, crop_pct, view):
    image = to_tensor(make_image(1, shape))
    assert torch.equal(center_view(image, size, crop_pct), apply_view(image, view, size))


def test_center_view_is_the_usual_resize_and_crop(make_image):
    pixels = make_image(2, (300, 400))
    resized = Image.fromarray(pixels).resize((341, 256), Image.Resampling.BICUBIC)
    usual = np.array(resized.crop((58, 16, 58 + 224, 16 + 224)))
    far = difference(center_view(to_tensor(pixels), (224, 224), 0.875), usual)
    assert far.mean() <= 1  # half a pixel of the other rounding


def test_stack_is_contiguous():
    images = [torch.zeros(8, 6, 3, dtype=torch.uint8).permute(2, 0, 1) for _ in range(2)]
    batch = stack(images)
    assert batch.shape == (2, 3, 8, 6) and batch.is_contiguous()
