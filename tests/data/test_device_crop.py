import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mae.data import device_crop
from mae.data.batch import Crops
from mae.data.device_crop import pack_crops, resize_crops
from mae.data.transform import View, apply_view


def image_of(pixels):
    """[h w c] → [c h w], channels last in memory as `decode` returns them."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def noise(height, width, channels=3, dtype=np.uint8, seed=0):
    rng = np.random.default_rng((seed, height, width))
    return image_of(rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, True))


def by_pillow(image, view, size):
    """Crop, resize and mirror with Pillow: along the rows, then along the columns."""
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    part = Image.fromarray(image.permute(1, 2, 0).numpy()).crop(box)
    part = part.resize((size[1], view.height), Image.Resampling.BICUBIC)
    part = part.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(part)[:, :: -1 if view.flip else 1].copy()).permute(2, 0, 1)


def assert_as_pillow(images, views, size):
    ours = resize_crops(pack_crops(images, views), size, "cpu")
    assert ours.dtype == torch.uint8 and ours.shape == (len(views), 3, *size)
    for image, view, mine in zip(images, views, ours, strict=True):
        far = (mine.int() - by_pillow(image, view, size).int()).abs().float()
        # Ties of enlargements go either way, and a second pass may double that; where all comes
        # from a few pixels, one tie is in many places.
        few = view.height * view.width < 32
        assert far.mean() <= (0.25 if few else 0.05) and far.max() <= 2, view


@st.composite
def images_and_views(draw):
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    h, w = draw(st.integers(1, height)), draw(st.integers(1, width))
    view = View(
        draw(st.integers(0, height - h)), draw(st.integers(0, width - w)), h, w, draw(st.booleans())
    )
    return noise(height, width), view


@settings(max_examples=60)
@given(
    st.lists(images_and_views(), min_size=1, max_size=6), st.integers(12, 60), st.integers(12, 60)
)
def test_any_crops_are_resized_as_pillow_does(pairs, height, width):
    images, views = zip(*pairs, strict=True)
    assert_as_pillow(images, list(views), (height, width))


@pytest.mark.parametrize(
    "view",
    [
        View(0, 0, 375, 500, False),
        View(13, 21, 277, 300, True),
        View(5, 3, 56, 48, True),
        View(374, 100, 1, 300, False),
        View(0, 499, 375, 1, True),
        View(3, 4, 1, 1, False),
        View(2, 2, 5, 490, True),
        View(9, 2, 366, 7, False),
        View(7, 9, 64, 64, True),
    ],
    ids="whole smaller larger one-row one-column one-pixel wide tall equal".split(),
)
def test_odd_shapes_are_resized_as_pillow_does(view):
    assert_as_pillow([noise(375, 500)], [view], (64, 64))


def test_photographs_in_one_call_of_pillow(make_image):
    # Both sides shrink: every version of Pillow goes along the rows first.
    images = [image_of(make_image(number, (120, 160))) for number in range(4)]
    views = [View(number, 2 * number, 100, 90, False) for number in range(4)]
    ours = resize_crops(pack_crops(images, views), (64, 64), "cpu")
    for image, view, mine in zip(images, views, ours, strict=True):
        box = (view.left, view.top, view.left + view.width, view.top + view.height)
        theirs = Image.fromarray(image.permute(1, 2, 0).numpy()).crop(box)
        theirs = np.array(theirs.resize((64, 64), Image.Resampling.BICUBIC))
        far = np.abs(mine.permute(1, 2, 0).numpy().astype(int) - theirs)
        assert far.mean() <= 0.02 and far.max() <= 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_same_view_as_on_the_cpu(channels):
    images = [noise(90, 120, channels), noise(50, 30, channels)]
    views = [View(3, 5, 70, 61, True), View(1, 2, 40, 20, False)]
    ours = resize_crops(pack_crops(images, views), (48, 32), "cpu")
    for image, view, mine in zip(images, views, ours, strict=True):
        far = (mine.int() - apply_view(image, view, (48, 32)).int()).abs().float()
        assert far.mean() <= 0.1 and far.max() <= 1


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_sixteen_bits_stay_sixteen(channels):
    images = [noise(90, 120, channels, np.uint16), noise(20, 30, channels, np.uint16)]
    views = [View(3, 5, 70, 61, True), View(0, 0, 20, 30, False)]
    ours = resize_crops(pack_crops(images, views), (48, 32), "cpu")
    assert ours.dtype == torch.uint16
    for image, view, mine in zip(images, views, ours, strict=True):
        far = (mine.int() - apply_view(image, view, (48, 32)).int()).abs().float()
        assert far.mean() <= 0.5 and far.max() <= 1
    assert {0, 2**16 - 1} <= set(ours[1].int().flatten().tolist())  # clamped, not wrapped


def boxes(count=12):
    rng = np.random.default_rng(1)
    images, views = [], []
    for number in range(count):
        height, width = rng.integers(20, 80, 2).tolist()
        images.append(noise(height, width, seed=number))
        views.append(View(1, 2, height - 5, width - 9, number % 3 == 0))
    return images, views


@pytest.mark.parametrize("largest", [1, 20_000, 60_000])
def test_groups_change_nothing(monkeypatch, largest):
    crops = pack_crops(*boxes())
    whole = resize_crops(crops, (24, 32), "cpu")
    monkeypatch.setattr(device_crop, "LARGEST_GROUP", largest)
    assert torch.equal(resize_crops(crops, (24, 32), "cpu"), whole)


def test_padded_buffers_stay_small(monkeypatch):
    monkeypatch.setattr(device_crop, "LARGEST_GROUP", 40_000)
    seen, pad = [], device_crop._pad

    def watch(*arguments, **named):
        seen.append(pad(*arguments, **named))
        return seen[-1]

    monkeypatch.setattr(device_crop, "_pad", watch)
    resize_crops(pack_crops(*boxes()), (24, 32), "cpu")
    assert sum(len(group) for group in seen) == 12
    assert 1 < len(seen) < 12
    assert max(group.numel() for group in seen) <= 40_000


def test_crops_are_the_boxes_back_to_back():
    images, views = boxes(3)
    crops = pack_crops(iter(images), views)
    assert isinstance(crops, Crops) and crops.channels == 3
    assert crops.heights.tolist() == [view.height for view in views]
    assert crops.widths.tolist() == [view.width for view in views]
    assert crops.flips.tolist() == [True, False, False]
    parts = [image[:, v.top :, v.left :] for image, v in zip(images, views, strict=True)]
    parts = [p[:, : v.height, : v.width] for p, v in zip(parts, views, strict=True)]
    expected = torch.cat([part.permute(1, 2, 0).flatten() for part in parts])
    assert torch.equal(crops.pixels, expected)


def test_images_may_be_decoded_one_at_a_time():
    alive = []

    def one_by_one():
        for image in boxes(3)[0]:
            alive.append(image)
            yield alive[-1]
            alive.pop().zero_()  # a decoder may use its buffer again

    crops = pack_crops(one_by_one(), boxes(3)[1])
    assert torch.equal(crops.pixels, pack_crops(*boxes(3)).pixels)


def test_automatic_half_precision_is_not_for_pixels():
    crops = pack_crops(*boxes())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = resize_crops(crops, (24, 32), "cpu")
    assert torch.equal(mixed, resize_crops(crops, (24, 32), "cpu"))
