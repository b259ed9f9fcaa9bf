import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from mae.decoding.decode import decode, decode_native, read_info
from mae.decoding.pixels import BadImage
from mae.pack.shard_writer import Encoded, pixel_cost, recode


def encode(pixels, format="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return Encoded(file.getvalue(), {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}[format])


def npy(pixels):
    file = io.BytesIO()
    np.save(file, pixels)
    return Encoded(file.getvalue(), "npy")


def test_bytes_are_kept_by_default(make_image):
    source = encode(make_image(0))
    assert recode(source) is source
    assert recode(Encoded(b"no image", "jpg")).data == b"no image"


@pytest.mark.parametrize(
    ("format", "quality", "extension"),
    [
        ("JPEG", None, "jpg"),
        ("PNG", None, "png"),
        ("WEBP", None, "jpg"),
        ("PNG", 80, "jpg"),
        ("JPEG", 80, "jpg"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_larger_images_are_reduced(make_image, format, quality, extension, channels):
    if format == "WEBP" and channels == 1:
        pytest.skip("WebP has no gray")
    source = encode(make_image(1, (90, 150), channels), format)
    stored = recode(source, 60, quality)
    assert stored.extension == extension
    assert read_info(stored.data, stored.extension)[:4] == (60, 100, channels, 8)
    assert pixel_cost(source, stored, 60) < 3


def test_resized_png_equals_pillows_bicubic(make_image):
    pixels = make_image(2, (90, 151))
    stored = recode(encode(pixels), 30)
    expected = Image.fromarray(pixels).resize((50, 30), Image.Resampling.BICUBIC)
    assert np.array_equal(np.array(Image.open(io.BytesIO(stored.data))), np.array(expected))


@pytest.mark.parametrize("side", [60, 61, 1000])
def test_small_images_keep_their_bytes(make_image, side):
    source = encode(make_image(1, (60, 100)))
    assert recode(source, side) is source


def test_lower_quality_gives_smaller_files(make_image):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    source = encode(noise)
    sizes = [len(recode(source, quality=quality).data) for quality in (30, 60, 95)]
    assert sizes == sorted(sizes) and sizes[-1] < len(source.data)
    costs = [pixel_cost(source, recode(source, quality=quality)) for quality in (30, 95)]
    assert costs[0] > costs[1] > 0
    with Image.open(io.BytesIO(recode(source, quality=60).data)) as image:
        assert JpegImagePlugin.get_sampling(image) == 2  # 4:2:0


def test_jpeg_that_would_not_shrink_keeps_its_bytes(make_image):
    source = encode(make_image(0, (64, 64)), "JPEG", quality=40)
    assert recode(source, quality=95) is source
    assert len(recode(source, quality=10).data) < len(source.data)


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.uint16), (3, np.uint16), (5, np.uint8), (2, np.uint16)]
)
def test_deep_images_become_arrays(channels, dtype):
    full = np.iinfo(dtype).max
    y, x = np.mgrid[0:1:40j, 0:1:60j]
    pixels = np.stack([(x + y * c) / (1 + c) * full for c in range(channels)], -1).astype(dtype)
    source = npy(pixels)
    stored = recode(source, 20, quality=50)
    assert stored.extension == "npy"
    array = np.load(io.BytesIO(stored.data))
    assert array.shape == (20, 30, channels) and array.dtype == dtype
    # A ramp's reduction is the ramp of its blocks' means.
    blocks = pixels.reshape(20, 2, 30, 2, channels).mean((1, 3))
    assert np.abs(array[4:-4, 4:-4] - blocks[4:-4, 4:-4]).max() < full / 500
    assert pixel_cost(source, stored, 20) < 0.5


def test_deep_images_ignore_the_quality():
    source = npy(np.zeros((20, 20), np.uint16))
    assert recode(source, quality=50) is source
    assert recode(source, 20, 50) is source


def test_white_of_sixteen_bits_does_not_overflow():
    pixels = np.full((40, 40, 1), 65535, np.uint16)
    pixels[:20] = 0
    array = np.load(io.BytesIO(recode(npy(pixels), 20).data))
    assert array[0].max() == 0 and array[-1].min() == 65535


def test_pixel_cost_is_in_units_of_255(make_image):
    black, gray = (encode(np.full((50, 70, 3), value, np.uint8)) for value in (0, 51))
    assert pixel_cost(black, gray) == pytest.approx(51)
    deep, deeper = (npy(np.full((50, 70), value, np.uint16)) for value in (0, 13107))
    assert pixel_cost(deep, deeper, 30) == pytest.approx(51)


MODES = [(mode, None) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]


@pytest.mark.parametrize(("mode", "quality"), [*MODES, ("LA", 80), ("RGBA", 80)])
def test_reduced_file_decodes_to_the_reduced_image(make_image, mode, quality):
    image = Image.fromarray(make_image(0, (40, 60))).convert(mode)
    if mode in ("LA", "RGBA"):
        ramp = np.linspace(0, 255, 40 * 60).astype(np.uint8).reshape(40, 60)
        image.putalpha(Image.fromarray(ramp))
    file = io.BytesIO()
    image.save(file, "PNG")
    source = Encoded(file.getvalue(), "png")
    stored = recode(source, 20, quality)
    assert stored.extension == "png"
    full = decode(source.data, "png", 3).permute(1, 2, 0).numpy()
    expected = Image.fromarray(full).resize((30, 20), Image.Resampling.BICUBIC)
    found = decode(stored.data, "png", 3).permute(1, 2, 0).numpy()
    assert np.array_equal(found, np.array(expected))
    info = read_info(stored.data, "png")
    assert info.alpha == (mode in ("LA", "RGBA"))
    if info.alpha:
        alpha = image.getchannel("A").resize((30, 20), Image.Resampling.BICUBIC)
        assert np.array_equal(decode_native(stored.data, "png")[-1].numpy(), np.array(alpha))
    assert pixel_cost(source, stored, 20) < 3


@pytest.mark.parametrize("lossless", [False, True])
def test_webp_keeps_its_alpha(make_image, lossless):
    pixels = np.dstack([make_image(0, (40, 40)), np.full((40, 40), 99, np.uint8)])
    stored = recode(encode(pixels, "WEBP", lossless=lossless), 20)
    assert read_info(stored.data, stored.extension) == (20, 20, 4, 8, True)
    assert decode(stored.data, stored.extension, 3).shape == (3, 20, 20)


def test_alpha_of_sixteen_bits_is_dropped():
    values = np.random.default_rng(0).integers(0, 65536, (40, 60, 4), np.uint16)
    source = Encoded(imagecodecs.png_encode(values), "png")
    stored = recode(source, 20)
    assert stored.extension == "npy"
    assert decode(stored.data, "npy", 3, 16).shape == (3, 20, 30)
    assert pixel_cost(source, stored, 20) < 20


def test_image_with_alpha_ignores_the_quality(make_image):
    pixels = np.dstack([make_image(0, (40, 40)), np.full((40, 40), 99, np.uint8)])
    source = encode(pixels)
    assert recode(source, quality=50) is source


def test_lossless_webp_becomes_png(make_image):
    assert recode(encode(make_image(0, (40, 40)), "WEBP", lossless=True), 20).extension == "png"


def test_webp_that_would_not_shrink_keeps_its_bytes(make_image):
    source = encode(make_image(0, (64, 64)), "WEBP", quality=10)
    assert recode(source, quality=95) is source


@pytest.mark.parametrize("shape", [(64, 64, 224), (8, 8, 20), (20, 8, 8), (3, 3, 9)])
def test_arrays_with_ambiguous_axes_are_not_resized(shape):
    source = npy(np.zeros(shape, np.uint8))
    with pytest.raises(BadImage) as error:
        recode(source, 2)
    assert str(error.value).startswith(f"shape {list(shape)}: ")
    assert recode(source, 500) is source


def test_arrays_with_ambiguous_axes_after_resizing_are_refused():
    """[20, 30, 31] would be read as 20 channels."""
    source = npy(np.zeros((200, 300, 31), np.uint16))
    with pytest.raises(BadImage, match=r"shape \[20, 30, 31\] after --resize"):
        recode(source, 20)
    assert read_info(recode(source, 40).data, "npy").channels == 31


def test_damaged_files_are_refused(make_image):
    source = encode(make_image(0, (60, 60)))
    with pytest.raises(BadImage):
        recode(Encoded(source.data[:-60], "png"), 20)
