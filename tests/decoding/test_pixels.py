import numpy as np
import pytest
from PIL import Image

from mae.decoding.pixels import BadImage, Pixels, check_size, convert_pixels


def drawn(channels, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max, (40, 50, channels), dtype, endpoint=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha", [False, True])
def test_requested_channels_are_unchanged(channels, dtype, alpha):
    values = drawn(channels, dtype)
    fitted = convert_pixels(Pixels(values, alpha), channels, 8 * values.dtype.itemsize)
    assert fitted.dtype == dtype and np.array_equal(fitted, values)


def test_luma_equals_pillow():
    """Compare all pairs of red and green, the colours of largest weight, at four levels of blue."""
    levels = np.arange(256, dtype=np.uint8)
    red, green = np.meshgrid(levels, levels)
    for blue in (0, 1, 127, 255):
        values = np.stack([red, green, np.full_like(red, blue)], axis=2)
        expected = np.array(Image.fromarray(values).convert("L"))
        assert np.array_equal(convert_pixels(Pixels(values, False), 1, 8)[..., 0], expected)


def test_sixteen_bit_luma_is_rounded_and_does_not_overflow():
    values = np.append(drawn(3, np.uint16), np.full((1, 50, 3), 65535, np.uint16), axis=0)
    fitted = convert_pixels(Pixels(values, False), 1, 16)
    exact = values.astype(float) @ (np.array([19595, 38470, 7471]) / 65536)
    assert fitted.dtype == np.uint16 and fitted[-1].min() == 65535
    assert np.abs(fitted[..., 0] - exact).max() <= 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_dropped(dtype):
    bits = 8 * np.dtype(dtype).itemsize
    for channels in (1, 3):
        rgba, gray = drawn(4, dtype), drawn(2, dtype)
        without = convert_pixels(Pixels(rgba[..., :3], False), channels, bits)
        assert np.array_equal(convert_pixels(Pixels(rgba, True), channels, bits), without)
        without = convert_pixels(Pixels(gray[..., :1], False), channels, bits)
        assert np.array_equal(convert_pixels(Pixels(gray, True), channels, bits), without)


@pytest.mark.parametrize(
    ("stored", "alpha", "wanted"),
    [
        *[(1, False, 2), (1, False, 4), (2, False, 1), (2, False, 3), (2, True, 4)],
        *[(3, False, 0), (3, False, 2), (3, False, 4), (4, False, 1), (4, False, 3)],
        *[(7, False, 3), (7, True, 6)],
    ],
)
def test_other_channel_counts_are_refused(stored, alpha, wanted):
    with pytest.raises(BadImage, match=rf"^has {stored} channels?, but .*in_chans is {wanted}$"):
        convert_pixels(Pixels(drawn(stored), alpha), wanted, 8)


def test_widening_is_exact():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    wide = convert_pixels(Pixels(levels, False), 1, 16)
    assert np.array_equal(wide, levels.astype(int) * 257) and wide.max() == 65535


def test_sixteen_bits_are_refused_where_eight_are_requested():
    with pytest.raises(BadImage, match=r"^16 bits a channel, but data.bits is 8$"):
        convert_pixels(Pixels(drawn(3, np.uint16), False), 3, 8)


def test_size_limits(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    check_size(10, 10)
    check_size(10, 10, 4)
    check_size(1, 1, 400)
    for size in [(10, 11), (10, 10, 5), (1, 1, 401), (2**40, 2**40)]:
        with pytest.raises(BadImage, match=r"^refused: .* the limit is 100 pixels$"):
            check_size(*size)
    for size in [(0, 10), (10, 0), (10, 10, 0), (-10, -10)]:
        with pytest.raises(BadImage, match=r"^has no pixels"):
            check_size(*size)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    check_size(2**40, 2**40)
