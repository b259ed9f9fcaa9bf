"""Decoding with nvImageCodec, on the CPU, which needs no GPU."""

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
from mae.decoding.on_device import JpegDecoder, JpegFile, jpeg_for_device

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def picture(make_image):
    return Image.fromarray(make_image(7, (61, 83)))


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def rotated():
    """EXIF data with a rotation by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_equal_those_of_decode(picture, channels):
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
        assert jpeg_for_device(data, channels) == JpegFile(data, (channels, height, width))
        assert image is not None and torch.equal(image.permute(2, 0, 1), pixels)


def test_undecodable_files_are_none_and_others_decode(picture, capfd):
    good = jpeg(picture)
    found = JpegDecoder(CPU, 3)([good, good[: len(good) // 2], b"nonsense", b"", good])
    assert [image is None for image in found] == [False, True, True, True, False]
    assert capfd.readouterr().err == ""


def test_jpeg_for_device_takes_plain_complete_jpegs_only(picture, monkeypatch):
    good = jpeg(picture)
    assert jpeg_for_device(good, 3) == JpegFile(good, (3, 61, 83))
    png = io.BytesIO()
    picture.save(png, "PNG")
    rgb = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), colorspace="RGB")
    assert jpeg_for_device(rgb, 3) is not None  # coded as YCbCr
    for other in (
        png.getvalue(),
        jpeg(picture.convert("CMYK")),
        jpeg(picture, keep_rgb=True),
        good[:-500],
        good + b"what a camera adds",
        b"",
    ):
        assert jpeg_for_device(other, 3) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 61 * 83 - 1)
    assert jpeg_for_device(good, 3) is None


def test_missing_library_is_reported_with_its_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(
        UserError, match=r"needs nvImageCodec: pip install 'maekit\[decode-on-device"
    ):
        JpegDecoder(CPU, 3)


class Codec:
    """Fake library whose decoder calls `fail` first and decodes nothing."""

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
def test_broken_library_is_detected_at_construction(monkeypatch, capfd, fail, message):
    """Importing the library without nvJPEG succeeds and only prints the cause to stderr."""

    def load(name):
        os.write(2, b"Failed to load\nnvjpeg library!\n")
        return Codec(fail)

    monkeypatch.setattr("mae.decoding.on_device.import_module", load)
    with pytest.raises(UserError, match=message):
        JpegDecoder(CPU, 3)
    assert capfd.readouterr().err == ""


def test_import_error_is_reported(monkeypatch):
    def load(name):
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr("mae.decoding.on_device.import_module", load)
    with pytest.raises(UserError, match=r"on cpu: libcudart\.so\.13: cannot open"):
        JpegDecoder(CPU, 3)


def test_device_error_during_decoding_is_a_user_error(picture):
    decoder = JpegDecoder(CPU, 3)

    class Full:
        def decode(self, files, **options):
            raise RuntimeError("out of memory")

    decoder.decoder = Full()
    with pytest.raises(UserError, match="nvImageCodec on cpu: out of memory"):
        decoder([jpeg(picture)])
