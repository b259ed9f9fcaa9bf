import contextlib
import io
import struct
import sys

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mae.decoding.decode import decode, decode_native, read_info
from mae.decoding.pillow import SAVE_APART
from mae.decoding.pixels import BadImage


def tiff(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def pillow_tiff(image, **options):
    file = io.BytesIO()
    image.save(file, "TIFF", **options)
    return file.getvalue()


def patched(data, code, value, field=2, count=1):
    """File with one tag of its first page overwritten."""
    data = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages.first.tags[code].offset
        order = file.byteorder
    kind = {2: 3, 4: 4}[field]
    inside = struct.pack(order + ("H2x" if field == 2 else "I"), value)
    data[place + 2 : place + 12] = struct.pack(order + "HI", kind, count) + inside
    return bytes(data)


def native(data, extension="tif"):
    """Decode to [h w c] and check that header and pixels agree."""
    pixels = decode_native(data, extension)
    height, width, channels, bits, _ = read_info(data, extension)
    assert pixels.shape == (channels, height, width)
    assert pixels.dtype == {8: torch.uint8, 16: torch.uint16}[bits]
    return pixels.permute(1, 2, 0).numpy()


def refused(data, channels=3, bits=16):
    with pytest.raises(BadImage) as error:
        decode(data, "tif", channels, bits)
    (line,) = str(error.value).splitlines()
    return line


def drawn(channels, dtype=np.uint8, size=(50, 70)):
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True)


COMPRESSIONS = [None, "lzw", "zlib", "packbits", "zstd", "lzma"]
LAYOUTS = [{}, {"rowsperstrip": 16}, {"tile": (16, 32)}]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["strip", "strips", "tiles"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_pixels_are_exact(compression, layout, dtype, channels):
    values = drawn(channels, dtype)
    options = {"compression": compression, "photometric": "minisblack", **layout}
    for planar in (False, True):
        if channels > 1:
            options["planarconfig"] = "separate" if planar else "contig"
        stored = values.transpose(2, 0, 1) if planar else values
        for order in "<>":
            data = tiff(stored if channels > 1 else values[..., 0], byteorder=order, **options)
            assert np.array_equal(native(data), values)
            pixels = decode(data, "tif", channels, 16).permute(1, 2, 0)
            assert pixels.is_contiguous() and pixels.dtype == torch.uint16
            wide = values if dtype == np.uint16 else values.astype(int) * 257
            assert np.array_equal(pixels.numpy(), wide)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", ["lzw", "zlib"])
def test_horizontal_predictor(dtype, compression):
    values = drawn(3, dtype)
    for layout in LAYOUTS:
        data = tiff(values, compression=compression, predictor=True, **layout)
        assert np.array_equal(native(data), values)


def test_bigtiff():
    values = drawn(3)
    assert np.array_equal(native(tiff(values, bigtiff=True)), values)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_equals_pillow(picture, mode, compression, channels):
    data = pillow_tiff(picture.convert(mode), compression=compression)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.array(image.convert({1: "L", 3: "RGB"}[channels]))
    pixels = decode(data, "tif", channels).permute(1, 2, 0).numpy()
    assert np.array_equal(pixels.reshape(expected.shape), expected)
    stored = {"RGBA": 4, "LA": 2, "L": 1, "1": 1}.get(mode, 3)
    assert native(data).shape == (60, 80, stored)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["strip", "strips", "tiles"])
def test_jpeg_compression_equals_pillow(picture, mode, layout):
    values = np.array(picture.convert(mode))
    for options in ({}, {"subsampling": (2, 2)}, {"photometric": "rgb"}):
        if mode == "L" and options:
            continue
        data = tiff(values, compression="jpeg", **layout, **options)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.array(image.convert("RGB"))
        pixels = decode(data, "tif", 3).permute(1, 2, 0).numpy()
        assert np.abs(pixels.astype(int) - expected).max() <= 2
        assert (
            np.abs(pixels.astype(int) - np.array(picture.convert(mode).convert("RGB"))).mean() < 5
        )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(picture, orientation):
    data = pillow_tiff(picture, tiffinfo={274: orientation})
    with Image.open(io.BytesIO(data)) as image:
        expected = np.array(image.convert("RGB"))
    assert np.array_equal(native(data), expected)
    assert (expected.shape[0] == 80) == (orientation > 4)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_low_bit_depth_is_scaled_to_the_full_range(bits, white_is_zero):
    levels = np.arange(2**bits, dtype=np.uint8).repeat(4).reshape(1, -1)
    photometric = "miniswhite" if white_is_zero else "minisblack"
    stored = levels.astype(bool) if bits == 1 else levels
    data = tiff(stored, bitspersample=bits, photometric=photometric)
    expected = levels.astype(int) * 255 // (2**bits - 1)
    expected = 255 - expected if white_is_zero else expected
    assert np.array_equal(native(data)[..., 0], expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_inverted(dtype):
    values = drawn(1, dtype)[..., 0]
    for layout in LAYOUTS:
        data = tiff(values, photometric="miniswhite", **layout)
        assert np.array_equal(native(data)[..., 0], np.iinfo(dtype).max - values)


def test_twelve_bit_values_are_unchanged():
    values = drawn(1, np.uint16)[..., 0] >> 4
    for options in ({}, {"bitspersample": 12}):  # in 16-bit words, and packed
        data = tiff(values, photometric="minisblack", **options)
        assert np.array_equal(native(data)[..., 0], values)
        assert refused(data, 1, 8) == "16 bits a channel, but data.bits is 8"


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_are_expanded(bits):
    table = drawn(3, np.uint16, (2**bits, 1))[:, 0]
    indices = drawn(1)[..., 0] >> (8 - bits)
    indices = indices.astype(bool if bits == 1 else np.uint8)
    tag = (320, "H", table.size, table.T.ravel())
    gray = tiff(indices, photometric="minisblack", bitspersample=bits, extratags=[tag])
    data = patched(gray, 262, 3)
    assert np.array_equal(native(data), (table >> 8)[indices.astype(int)])
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(native(data), np.array(image.convert("RGB")))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_dropped_where_declared(dtype, channels):
    values = drawn(channels, dtype)
    bits = 8 * values.dtype.itemsize
    photometric = "rgb" if channels == 4 else "minisblack"
    declared = tiff(values, photometric=photometric, extrasamples=["unassalpha"])
    assert np.array_equal(native(declared), values)
    colours = np.broadcast_to(values[..., :-1], (50, 70, 3))
    assert np.array_equal(decode(declared, "tif", 3, bits).permute(1, 2, 0).numpy(), colours)
    assert decode(declared, "tif", 1, bits).shape == (1, 50, 70)
    other = tiff(values, photometric=photometric, extrasamples=["unspecified"])
    assert np.array_equal(native(other), values)
    assert refused(other) == f"has {channels} channels, but data.in_chans is 3"


def test_premultiplied_alpha_is_converted_as_pillow_does():
    values = drawn(4)
    values[:10, :, 3], values[10:20, :, 3] = 0, 255
    data = tiff(values, photometric="rgb", extrasamples=["assocalpha"])
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(native(data), np.array(image.convert("RGBA")))
    deep = values.astype(np.uint16) * 257
    data = tiff(deep, photometric="rgb", extrasamples=["assocalpha"])
    ratio = native(data)[10:20, :, :3].astype(int)
    assert np.array_equal(ratio, deep[10:20, :, :3])  # opaque: unchanged


def test_other_channel_counts_are_refused():
    data = tiff(drawn(7), photometric="minisblack", planarconfig="contig")
    assert refused(data) == "has 7 channels, but data.in_chans is 3"
    assert refused(tiff(drawn(3)), 7) == "has 3 channels, but data.in_chans is 7"
    cmyk = tiff(drawn(4), photometric="separated")
    assert refused(cmyk, 4) == "has 3 channels, but data.in_chans is 4"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "int8", "uint32", "complex64"])
def test_unsupported_dtypes_are_named(dtype):
    data = tiff(np.zeros((5, 5), dtype))
    message = f"{dtype} values: uint8 or uint16 expected"
    assert refused(data, 1) == message
    with pytest.raises(BadImage, match=message):
        read_info(data, "tif")


def test_several_pages_are_refused():
    values = drawn(3)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for _ in range(3):
            writer.write(values)
    assert refused(file.getvalue()) == f"holds 3 pages, one expected; {SAVE_APART}"
    many = tiff(np.zeros((200, 8, 8), np.uint8), photometric="minisblack")
    assert refused(many) == f"holds more than 32 pages, one expected; {SAVE_APART}"


@pytest.mark.parametrize("copies_in", ["subifds", "pages", "pages-first"])
def test_reduced_copies_do_not_count_as_pages(copies_in):
    values = drawn(3)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        if copies_in == "pages-first":
            writer.write(values[::2, ::2], subfiletype=1)
        writer.write(values, subifds=2 * (copies_in == "subifds"))
        if copies_in != "pages-first":
            writer.write(values[::2, ::2], subfiletype=1)
            writer.write(values[::4, ::4], subfiletype=1)
    assert np.array_equal(native(file.getvalue()), values)


def test_ring_of_pages_is_refused():
    data = bytearray(tiff(drawn(3)))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages.first.offset
    tags = struct.unpack_from("<H", data, place)[0]
    struct.pack_into("<I", data, place + 2 + 12 * tags, place)
    assert refused(bytes(data)) == f"holds more than 32 pages, one expected; {SAVE_APART}"


@pytest.mark.parametrize("compression", [*COMPRESSIONS, "jpeg"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["strip", "strips", "tiles"])
def test_truncated_files_are_refused(compression, layout):
    data = tiff(drawn(3), compression=compression, **layout)
    for end in [*range(0, len(data), len(data) // 23), len(data) - 1]:
        assert refused(data[:end]), end


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "jpeg"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_too_short_strips_are_refused(compression, share):
    data = tiff(drawn(3), compression=compression)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        (size,) = file.pages.first.databytecounts
    message = refused(patched(data, 279, int(share * size), field=4))
    assert message.startswith("does not decode: "), message


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (256, 2**31),
        (257, 2**31),
        (256, 0),
        (257, 0),
        (277, 60_000),
        (273, 2**31),
        (273, 0),
        (279, 2**31),
        (279, 0),
        (278, 1),
    ],
    ids="wide high flat thin samples far nowhere long none rows".split(),
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_inconsistent_tags_are_refused(code, value, compression):
    data = tiff(drawn(1, np.uint16)[..., 0], compression=compression)
    altered = patched(data, code, value, field=2 if code == 277 else 4)
    assert refused(altered, 1).startswith(("does not decode: ", "refused: ", "has no pixels"))


@pytest.mark.parametrize("layout", LAYOUTS, ids=["strip", "strips", "tiles"])
def test_wrong_lzw_codes_are_refused_without_crashing(layout):
    data = bytearray(tiff(drawn(3), compression="lzw", **layout))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        start = file.pages.first.dataoffsets[-1]
    data[start + 1] |= 0x7F  # second code: not in the table yet
    assert refused(data) == "does not decode: wrong LZW code"


def test_huge_tiles_are_refused():
    data = tiff(drawn(1)[..., 0], compression="zlib", tile=(16, 16))
    for code in (322, 323):
        assert refused(patched(data, code, 2**31 - 16, field=4), 1)
    data = patched(patched(data, 322, 2**30, field=4), 323, 2**30, field=4)
    assert refused(data, 1).startswith("refused: ")


def test_jpeg_larger_than_its_strip_is_refused():
    data = bytearray(tiff(drawn(1, size=(48, 64))[..., 0], compression="jpeg"))
    place = data.index(b"\xff\xc0") + 5  # height, width
    data[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    assert refused(bytes(data), 1).startswith("refused: Image size")
    data[place : place + 4] = struct.pack(">HH", 5_000, 5_000)
    assert refused(bytes(data), 1) == "does not decode: a JPEG larger than its tile"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "jpeg2000"}, "compression JPEG2000: one of none, LZW, deflate, "),
        ({"compression": "webp"}, "compression WEBP: one of "),
        ({"photometric": "cielab"}, "colours are CIELAB: gray, RGB, CMYK expected"),
    ],
    ids=["jpeg2000", "webp", "lab"],
)
def test_unsupported_kinds_are_named(options, message):
    assert refused(tiff(drawn(3), **options)).startswith(message)


def test_volumes_are_refused():
    data = tiff(np.zeros((16, 32, 32), np.uint8), volumetric=True, tile=(16, 16, 16))
    assert refused(data, 1) == f"is 16 images deep, one expected; {SAVE_APART}"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"II*\0",
        b"II*\0" + bytes(100),
        b"MM\0*\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"no",
    ],
    ids="empty start zeros far tags text".split(),
)
def test_garbage_is_refused(data):
    message = refused(data)
    assert message.startswith("does not decode: ") or message.startswith(
        "holds no pages, one expected"
    )


def test_missing_packages_are_reported_with_their_install_command(monkeypatch):
    data = tiff(drawn(3))
    for missing in ("tifffile", "imagecodecs"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            message = "TIFF needs tifffile and imagecodecs: pip install 'maekit[formats]'"
            assert refused(data) == message


def test_format_is_detected_from_the_content(picture):
    data = pillow_tiff(picture)
    for extension in ("jpg", "tif", "png"):
        assert np.array_equal(native(data, extension), np.array(picture))
    file = io.BytesIO()
    picture.save(file, "PNG")
    assert np.array_equal(native(file.getvalue(), "tif"), np.array(picture))


def test_damaged_files_cause_no_log_output(caplog, capfd):
    data = bytearray(tiff(drawn(3), compression="zlib"))
    for place in range(8, len(data), 97):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        with contextlib.suppress(BadImage):
            decode(damaged, "tif", 3, 16)
    assert not caplog.records and capfd.readouterr() == ("", "")
