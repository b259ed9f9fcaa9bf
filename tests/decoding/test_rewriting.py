"""Image files with other pixels."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from mae.decoding.decode import decode_native
from mae.decoding.pixels import BadImage
from mae.decoding.rewriting import rewrite

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pixels(channels, bits=8, size=(12, 17)):
    white = 2**bits - 1
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(channels).integers(0, white + 1, (*size, channels), dtype=dtype)


def saved(values, format, **options):
    file = io.BytesIO()
    Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(
        file, format, **options
    )
    return file.getvalue()


def tiff(values, **options):
    file = io.BytesIO()
    squeezed = values[..., 0] if values.shape[2] == 1 else values
    tifffile.imwrite(file, squeezed, **options)
    return file.getvalue()


def array(values, **options):
    file = io.BytesIO()
    np.save(file, values.astype(options.get("dtype", values.dtype)))
    return file.getvalue()


def deep_png(values):
    imagecodecs = pytest.importorskip("imagecodecs")
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(values)))


FILES = {
    "gray.png": lambda: saved(pixels(1), "PNG"),
    "alpha.png": lambda: saved(pixels(4), "PNG"),
    "gray16.png": lambda: saved(pixels(1, 16), "PNG"),
    "colour16.png": lambda: deep_png(pixels(3, 16)),
    "colour.bmp": lambda: saved(pixels(3), "BMP"),
    "colour.webp": lambda: saved(pixels(3), "WEBP", lossless=True),
    "gray.tif": lambda: tiff(pixels(1)),
    "gray16.tif": lambda: tiff(pixels(1, 16), compression="lzw", predictor=True),
    "big.tif": lambda: tiff(pixels(1, 16), byteorder=">", bigtiff=True, compression="zstd"),
    "colour16.tif": lambda: tiff(pixels(3, 16), photometric="rgb", compression="deflate"),
    "bands.tif": lambda: tiff(pixels(7, 16), photometric="minisblack", planarconfig="contig"),
    "alpha.tif": lambda: tiff(pixels(4), photometric="rgb", extrasamples=["unassalpha"]),
    "tiled.tif": lambda: tiff(pixels(1, size=(40, 50)), tile=(16, 16)),
    "last.npy": lambda: array(pixels(5, 16)),
    "first.npy": lambda: array(pixels(5).transpose(2, 0, 1)),
    "plane.npy": lambda: array(pixels(1, 16)[..., 0], dtype=">u2"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_format_stays_and_pixels_are_the_new_ones(name):
    data, extension = FILES[name](), name.rpartition(".")[2]
    before = decode_native(data, extension)
    new = before.flip(1).permute(1, 2, 0).numpy()
    made = rewrite(data, extension, new)
    assert made.extension == extension and not made.note
    after = decode_native(made.data, extension)
    assert after.dtype == before.dtype and (after == before.flip(1)).all()
    assert rewrite(made.data, extension, new).data == made.data


def test_metadata_of_a_png_stays():
    info = PngImagePlugin.PngInfo()
    info.add_text("Stage", "x=3")
    info.add_itxt("Sample", "µm")
    exif = Image.Exif()
    exif[271] = "Maker"
    data = saved(pixels(3), "PNG", pnginfo=info, icc_profile=PROFILE, dpi=(300, 300), exif=exif)
    with Image.open(io.BytesIO(rewrite(data, "png", pixels(3) // 2).data)) as image:
        image.load()
        assert image.info["Stage"] == "x=3" and image.info["Sample"] == "µm"
        assert image.info["icc_profile"] == PROFILE and image.getexif()[271] == "Maker"
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_a_palette_becomes_colours():
    palette = Image.fromarray(pixels(3)).quantize(8)
    palette.info["transparency"] = 0
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=0)
    new = decode_native(file.getvalue(), "png").permute(1, 2, 0).numpy()
    made = rewrite(file.getvalue(), "png", new)
    assert (decode_native(made.data, "png").permute(1, 2, 0).numpy() == new).all()


def test_tags_of_a_tiff_stay():
    data = tiff(
        pixels(1, 16),
        description='<?xml version="1.0"?><OME unit="µm"/>'.encode(),
        software="Scope 3",
        datetime="2026:01:02 03:04:05",
        resolution=(1000, 1500),
        resolutionunit="CENTIMETER",
        extratags=[(33550, "d", 3, (0.5, 0.5, 0.0), True), (65000, "s", 0, "own", True)],
        metadata=None,
    )
    made = rewrite(data, "tif", pixels(1, 16) // 2).data
    tags = []
    for one in (data, made):
        with tifffile.TiffFile(io.BytesIO(one)) as file:
            tags.append({tag.code: tag.value for tag in file.pages.first.tags.values()})
    for code in (270, 282, 283, 296, 305, 306, 33550, 65000):
        assert tags[0][code] == tags[1][code], code


def test_tags_of_imagej_stay():
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels(1, 16)[..., 0],
        imagej=True,
        metadata={"unit": "um", "Labels": ["a"], "Ranges": (0.0, 9.0), "min": 0.0, "max": 9.0},
    )
    made = rewrite(file.getvalue(), "tif", pixels(1, 16) // 2).data
    with (
        tifffile.TiffFile(io.BytesIO(made)) as new,
        tifffile.TiffFile(io.BytesIO(file.getvalue())) as old,
    ):
        assert new.imagej_metadata == old.imagej_metadata


def test_what_changes_is_noted():
    twelve = tiff(pixels(1, 16) >> 4, compression=None)
    cases = {
        "palette": saved_palette(),
        "1 bits became 8": saved_bilevel(),
        "CMYK became RGB": saved_cmyk("TIFF"),
        "lossy": saved(pixels(3, size=(32, 32)), "JPEG"),
    }
    for words, data in cases.items():
        extension = "tif" if data[:2] in (b"II", b"MM") else "png"
        new = decode_native(data, extension).permute(1, 2, 0).numpy()
        assert words in rewrite(data, extension, new).note
    assert not rewrite(twelve, "tif", pixels(1, 16)).note


def saved_palette():
    file = io.BytesIO()
    Image.fromarray(pixels(3)).quantize(8).save(file, "PNG")
    return file.getvalue()


def saved_bilevel():
    file = io.BytesIO()
    Image.fromarray(pixels(1)[..., 0] > 128).save(file, "PNG")
    return file.getvalue()


def saved_cmyk(format):
    file = io.BytesIO()
    Image.fromarray(pixels(3)).convert("CMYK").save(file, format, icc_profile=b"ink" * 50)
    return file.getvalue()


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_a_profile_of_inks_goes_with_the_inks(format):
    data, extension = saved_cmyk(format), "tif" if format == "TIFF" else "jpg"
    made = rewrite(data, extension, pixels(3))
    assert "CMYK became RGB" in made.note
    with Image.open(io.BytesIO(made.data)) as image:
        assert "icc_profile" not in image.info


def test_long_texts_of_a_png_stay():
    info = PngImagePlugin.PngInfo()
    info.add_text("long", "x" * 2_000_000, zip=True)
    data = saved(pixels(1), "PNG", pnginfo=info)
    made = rewrite(data, "png", pixels(1) // 2)
    assert b"zTXt" in made.data and not made.note


def test_what_cannot_be_written_is_a_bad_image(monkeypatch):
    def fail(*_, **__):
        raise ValueError("no such tag\nand more")

    data = FILES["gray.tif"]()
    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(BadImage, match=r"cannot be written again: no such tag$"):
        rewrite(data, "tif", pixels(1))


@pytest.mark.parametrize(
    ("format", "extension"), [("JPEG", "jpg"), ("WEBP", "webp"), ("AVIF", "avif")]
)
def test_lossy_files_become_png_with_profile_and_exif(format, extension):
    exif = Image.Exif()
    exif[271] = "Maker"
    data = saved(pixels(3, size=(32, 32)), format, icc_profile=PROFILE, exif=exif)
    made = rewrite(data, extension, pixels(3, size=(32, 32)))
    assert made.extension == "png" and "lossy" in made.note
    with Image.open(io.BytesIO(made.data)) as image:
        assert image.format == "PNG" and image.info["icc_profile"] == PROFILE
        assert image.getexif()[271] == "Maker"
    assert (
        decode_native(made.data, "png").permute(1, 2, 0).numpy() == pixels(3, 8, (32, 32))
    ).all()
