"""nvImageCodec on the CPU, which is all that can be had everywhere."""

import io
import os
import sys

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from mae.base.errors import UserError
from mae.decoding.decode import decode
from mae.decoding.on_device import JpegDecoder, JpegFile, left_to_device

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def picture(make_image):
    return Image.fromarray(make_image(7, (61, 83)))


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def rotated():
    """EXIF data that ask for a quarter of a turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_our_decoder(picture, channels):
    files = [
        jpeg(picture),
        jpeg(picture, subsampling=0),
        jpeg(picture, subsampling=1, progressive=True),
        jpeg(picture.convert("L")),
        jpeg(picture, exif=rotated()),
        jpeg(picture.crop((0, 0, 1, 1))),
    ]
    found = JpegDecoder(CPU, channels)(files)
    for image, data in zip(found, files, strict=True):
        pixels = decode(data, "jpg", channels)
        height, width = pixels.shape[1:]
        assert left_to_device(data, channels) == JpegFile(data, (channels, height, width))
        assert image is not None and torch.equal(image.permute(2, 0, 1), pixels)


def test_what_cannot_be_decoded_is_missing_and_disturbs_no_other(picture, capfd):
    good = jpeg(picture)
    found = JpegDecoder(CPU, 3)([good, good[: len(good) // 2], b"nonsense", b"", good])
    assert [image is None for image in found] == [False, True, True, True, False]
    assert capfd.readouterr().err == ""


def test_a_device_gets_what_it_surely_knows(picture, monkeypatch):
    good = jpeg(picture)
    assert left_to_device(good, 3) == JpegFile(good, (3, 61, 83))
    png = io.BytesIO()
    picture.save(png, "PNG")
    rgb = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), colorspace="RGB")
    assert left_to_device(rgb, 3) is not None  # coded as YCbCr
    for other in (
        png.getvalue(),
        jpeg(picture.convert("CMYK")),
        jpeg(picture, keep_rgb=True),
        good[:-500],
        good + b"what a camera adds",
        b"",
    ):
        assert left_to_device(other, 3) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 61 * 83 - 1)
    assert left_to_device(good, 3) is None


def test_without_the_library_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(UserError, match=r"needs nvImageCodec: pip install 'mae\[decode-on-device"):
        JpegDecoder(CPU, 3)


class Codec:
    """A library that fails as it is told to."""

    def __init__(self, fail):
        self.fail = fail

    def __getattr__(self, name):
        return {"Decoder": self.decoder}.get(name, Codec(self.fail))

    def __call__(self, *arguments, **options):
        return self

    def decoder(self, *arguments, **options):
        self.fail()
        return self

    def decode(self, files, **options):
        return [None for _ in files]


def broken():
    raise RuntimeError("Could not create decoder. Code: 8")


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (
            broken,
            r"nvImageCodec on cpu: Could not create decoder\. Code: 8 Failed to load nvj",
        ),
        (lambda: None, "nvImageCodec decodes no JPEG on cpu: Failed to load nvjpeg library!"),
    ],
)
def test_a_library_that_does_not_work_is_found_at_the_start(monkeypatch, capfd, fail, message):
    """As where nvJPEG is missing: it says so on stderr when it is imported, and goes on."""

    def load(name):
        os.write(2, b"Failed to load\nnvjpeg library!\n")
        return Codec(fail)

    monkeypatch.setattr("mae.decoding.on_device.import_module", load)
    with pytest.raises(UserError, match=message):
        JpegDecoder(CPU, 3)
    assert capfd.readouterr().err == ""


def test_a_library_that_cannot_be_loaded_says_why(monkeypatch):
    def load(name):
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr("mae.decoding.on_device.import_module", load)
    with pytest.raises(UserError, match=r"on cpu: libcudart\.so\.13: cannot open"):
        JpegDecoder(CPU, 3)


def test_a_device_that_fails_later_is_an_error_of_ours(picture):
    decoder = JpegDecoder(CPU, 3)

    class Full:
        def decode(self, files, **options):
            raise RuntimeError("out of memory")

    decoder.decoder = Full()
    with pytest.raises(UserError, match="nvImageCodec on cpu: out of memory"):
        decoder([jpeg(picture)])
