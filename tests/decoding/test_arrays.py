import io

import numpy as np
import pytest
import torch

from mae.decoding.arrays import check_axes
from mae.decoding.decode import decode, decode_native, read_info
from mae.decoding.pixels import BadImage


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def claiming(descr, shape, payload=b"", version=1):
    """`.npy` file with an arbitrary header."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    write = {1: np.lib.format.write_array_header_1_0, 2: np.lib.format.write_array_header_2_0}
    write[version](file, header)
    return file.getvalue() + payload


def refused(data, channels=3, bits=16):
    with pytest.raises(BadImage) as error:
        decode(data, "npy", channels, bits)
    (line,) = str(error.value).splitlines()
    return line


@pytest.fixture
def values():
    """Function `values(shape, dtype)` that draws a random array."""
    rng = np.random.default_rng(0)
    return lambda shape, dtype: rng.integers(0, np.iinfo(dtype).max, shape, dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 31])
def test_both_layouts_decode_to_channels_first(values, dtype, channels):
    last = values((20, 30, channels), dtype)
    bits = 8 * last.dtype.itemsize
    for stored in (last, last.transpose(2, 0, 1), np.asfortranarray(last)):
        pixels = decode(npy(stored), "npy", channels, bits)
        assert np.array_equal(pixels.numpy(), last.transpose(2, 0, 1))
        assert pixels.dtype == {8: torch.uint8, 16: torch.uint16}[bits]
        assert pixels.permute(1, 2, 0).is_contiguous()


def test_array_without_channel_axis(values):
    gray = values((20, 30), np.uint8)
    data = npy(gray)
    assert read_info(data, "npy")[:4] == (20, 30, 1, 8)
    assert np.array_equal(decode_native(data, "npy")[0].numpy(), gray)
    assert np.array_equal(decode(data, "npy", 3).numpy(), np.stack([gray] * 3))


def test_big_endian_and_fortran_order(values):
    stored = values((20, 30, 5), np.uint16)
    data = npy(np.asfortranarray(stored.astype(">u2")))
    assert np.array_equal(decode(data, "npy", 5, 16).permute(1, 2, 0).numpy(), stored)


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_of_the_header(version):
    data = claiming("|u1", (2, 3), bytes(range(6)), version)
    assert decode(data, "npy", 1)[0].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("shape", "native"),
    [
        ((20, 30, 3), (20, 30, 3)),
        ((3, 20, 30), (20, 30, 3)),
        ((4, 20, 4), (4, 20, 4)),  # a tie: the last
        ((5, 20, 4), (5, 20, 4)),
        ((4, 20, 5), (20, 5, 4)),
    ],
)
def test_shorter_axis_holds_the_channels_without_a_requested_number(values, shape, native):
    stored = values(shape, np.uint8)
    assert read_info(npy(stored), "npy")[:4] == (*native, 8)
    expected = stored if shape == native else stored.transpose(1, 2, 0)
    assert np.array_equal(decode_native(npy(stored), "npy").permute(1, 2, 0).numpy(), expected)


def test_requested_number_of_channels_determines_the_axis(values):
    stored = values((5, 20, 4), np.uint8)
    assert decode(npy(stored), "npy", 5).shape == (5, 20, 4)
    assert decode(npy(stored), "npy", 4).shape == (4, 5, 20)
    both = values((4, 20, 4), np.uint8)  # both axes fit: the last
    assert np.array_equal(decode(npy(both), "npy", 4).permute(1, 2, 0).numpy(), both)


@pytest.mark.parametrize(
    "shape",
    [(20, 30), (224, 224, 3), (3, 224, 224), (8, 8, 3), (31, 200, 300), (40, 60, 5), (90, 80, 600)],
)
def test_unambiguous_shapes_pass(shape):
    check_axes(shape)


@pytest.mark.parametrize("shape", [(64, 64, 224), (224, 64, 64), (8, 8, 20), (31, 20, 30)])
def test_ambiguous_shapes_are_refused(shape):
    with pytest.raises(
        BadImage, match=r"may both be the channels.*pack it without --resize"
    ) as bad:
        check_axes(shape)
    assert str(bad.value).startswith(f"shape {list(shape)}: ")


def test_other_channel_counts_are_refused(values):
    data = npy(values((20, 30, 7), np.uint8))
    assert refused(data) == "has 7 channels, but data.in_chans is 3"
    assert refused(npy(values((20, 30), np.uint8)), 4) == "has 1 channel, but data.in_chans is 4"
    # The fourth channel is not declared as alpha.
    assert refused(npy(values((20, 30, 4), np.uint8))).startswith("has 4 channels")


def test_depth_is_checked_and_widened(values):
    stored = values((20, 30, 3), np.uint16)
    assert refused(npy(stored), bits=8) == "16 bits a channel, but data.bits is 8"
    narrow = stored.astype(np.uint8)
    wide = decode(npy(narrow), "npy", 3, 16).permute(1, 2, 0).numpy()
    assert np.array_equal(wide, narrow.astype(int) * 257)


@pytest.mark.parametrize("dtype", ["float128", "int16", "int8", "bool", "uint32", "complex64"])
def test_unsupported_dtypes_are_named(dtype):
    expected = f"{dtype} values: uint8, uint16 or floats expected"
    assert refused(npy(np.zeros((4, 4, 3), dtype))) == expected
    assert refused(npy(np.zeros((4, 4, 3), np.dtype(dtype).newbyteorder(">")))) == expected


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_become_float32_with_channels_first(dtype):
    stored = (50 * np.random.default_rng(0).normal(size=(4, 6, 4))).astype(dtype)
    info = read_info(npy(stored), "npy", 4)
    assert (info.height, info.width, info.channels, info.bits) == (6, 4, 4, 32)
    found = decode(npy(stored), "npy", 4, 32)
    assert found.dtype == torch.float32 and np.array_equal(found, stored.astype(np.float32))
    assert torch.equal(decode_native(npy(stored), "npy"), found)
    last = npy(stored.transpose(1, 2, 0)[:, :3])  # only the last axis has 4
    assert np.array_equal(decode(last, "npy", 4, 32), stored[:, :, :3].astype(np.float32))


def test_floats_and_integers_are_not_mixed_up():
    floats = npy(np.zeros((3, 4, 4), np.float32))
    assert refused(floats) == "holds floats, but data.bits is 16: data.bits=32 reads them"
    integers = npy(np.zeros((4, 4, 3), np.uint16))
    message = "16 bits a channel, but data.bits=32 reads floats in .npy files alone"
    assert refused(integers, bits=32) == message
    assert "has 3 channels, but data.in_chans is 1" in refused(floats, 1, bits=32)
    for value in (np.nan, np.inf, 1e300):
        damaged = npy(np.full((3, 4, 4), value))
        assert refused(damaged, bits=32) == "holds numbers that are not finite, or beyond float32"


def test_named_fields_are_refused():
    fields = npy(np.zeros((4, 4), [("red", "u1"), ("green", "u1")]))
    assert refused(fields) == "named fields: uint8, uint16 or floats expected"
    with pytest.warns(UserWarning, match=r"format 3\.0"):
        data = npy(np.zeros((4, 4), [("赤", "u1")]))
    assert refused(data) == "does not decode: .npy of version 3.0"


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_unpickled(tmp_path):
    harm = tmp_path / "harm"
    file = io.BytesIO()
    np.save(file, np.array([[Malicious(harm)]], dtype=object), allow_pickle=True)
    message = "pickled objects: uint8, uint16 or floats expected"
    for extension in ("npy", "jpg", "tif", "pkl"):
        for read in (
            lambda e: decode(file.getvalue(), e, 3),
            lambda e: read_info(file.getvalue(), e),
        ):
            with pytest.raises(BadImage, match=message):
                read(extension)
    assert not harm.exists()
    np.load(io.BytesIO(file.getvalue()), allow_pickle=True)[0, 0].close()
    assert harm.exists()  # unpickling the file does create it


@pytest.mark.parametrize("shape", [(), (4,), (2, 4, 4, 3)])
def test_other_shapes_are_refused(shape):
    message = f"shape {list(shape)}: [h w], [h w c] or [c h w] expected"
    assert refused(npy(np.zeros(shape, np.uint8))) == message


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0), (4, 0, 3), (4, 4, 0), (-4, -4, 3)])
def test_images_without_pixels_are_refused(shape):
    assert refused(claiming("|u1", shape)).startswith("has no pixels")


def test_wrong_number_of_bytes_is_refused():
    data = npy(np.zeros((4, 5), np.uint16))
    for held in (0, 39, 41):
        message = f"does not decode: {held} bytes of values where 40 are announced"
        assert refused((data + b"\0")[: len(data) - 40 + held], 1) == message


def test_huge_shapes_are_refused():
    for shape in [(2**31, 2**31), (10**9, 10**9, 3), (100, 100, 10**12), (10**12, 100, 100)]:
        assert refused(claiming("<u2", shape)).startswith("refused: "), shape


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x09\x00" + bytes(100),
        b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16,
        b"\x93NUMPY\x01\x00\xff\x1f" + b"(" * 0x1FFF,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"{" * 100,
        b"\x93NUMPY\x01\x00\x10\x00" + b"__import__('os')",
        b"PK\x03\x04" + bytes(100),
    ],
    ids="empty start version unknown brackets deep long code npz".split(),
)
def test_garbage_is_refused(data):
    assert refused(data).startswith("does not decode: ")
