"""Files of compressed images: read as written, or refused in one line."""

import hashlib
import io
import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae.base.errors import UserError
from mae.compression.container import (
    DIGEST,
    MAGIC,
    Block,
    Container,
    Entry,
    Header,
    Kind,
    is_safe,
    read_container,
    write_container,
)

HEADER = Header(b"m" * 8, b"t" * 8, "torch 2", 3, 16, (32, 64))
KINDS = [Kind(20, 30, 3, 8)] * 3 + [Kind(21, 300, 1, 16)]
BLOCKS = [Block(3, b"x" * 200, 7), Block(1, b"", 2**32 - 1)]
WHOLE = Container(HEADER, KINDS, ["a.png", "deep/ü.jpg", "c", "d"], [one.entry for one in BLOCKS])
ONE = Block(1, b"payload", 5)
ALONE = Container(HEADER._replace(build=""), KINDS[:1], [], [ONE.entry])
BOTH = pytest.mark.parametrize(("content", "blocks"), [(WHOLE, BLOCKS), (ALONE, [ONE])])


def written(content, blocks=BLOCKS):
    file = io.BytesIO()
    write_container(file, content, [one.payload for one in blocks])
    return file.getvalue()


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """Reads a file of these bytes."""
    path = tmp_path_factory.mktemp("files") / "f"

    def read(data):
        path.write_bytes(data)
        return read_container(path)

    return read


@BOTH
def test_a_file_is_read_as_it_was_written(content, blocks, parsed):
    data = written(content, blocks)
    found = parsed(data)
    assert found.content == content and content.size == len(data)
    places = list(found.places())
    assert [found.block(one) for one in places] == blocks
    numbers = [number for one in places for number in one.numbers]
    assert numbers == list(range(len(content.kinds)))


def test_a_file_of_one_small_image_has_few_bytes_besides_its_payload():
    assert ALONE.size - len(b"payload") < 55


@BOTH
def test_any_flipped_bit_or_cut_is_refused(content, blocks, parsed):
    data = written(content, blocks)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(UserError, match=r"f: (holds no|is of version|is damaged)"):
            parsed(bytes(damaged))
        with pytest.raises(UserError, match=r"f: (holds no|is of version|is damaged)"):
            parsed(data[:place])


@given(data=st.data())
def test_damage_with_a_right_checksum_is_refused_or_read(data, parsed):
    """What somebody else may make: nothing but UserError, and no memory by the claimed sizes."""
    body = bytearray(written(WHOLE)[:-DIGEST])
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(len(MAGIC) + 1, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(40, len(body)))]
    whole = bytes(body) + hashlib.sha256(body).digest()[:DIGEST]
    try:
        found = parsed(whole)
    except UserError as error:
        assert "f: is damaged" in str(error)
    else:
        content = found.content
        assert len(content.kinds) == sum(entry.images for entry in content.entries)
        assert all(len(found.block(one).payload) == one.entry.length for one in found.places())


def test_payloads_stay_in_the_file_until_they_are_needed(tmp_path):
    path, size = tmp_path / "f", 1 << 23
    entries = [Entry(1, size, number) for number in range(4)]
    names = [str(number) for number in range(4)]
    with path.open("wb") as file:
        payloads = (bytes([number]) * size for number in range(4))
        write_container(file, Container(HEADER, KINDS, names, entries), payloads)
    tracemalloc.start()
    try:
        found = read_container(path)
        assert tracemalloc.get_traced_memory()[1] < size // 2
        block = found.block(list(found.places())[2])
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()
    assert block == Block(1, b"\2" * size, 2)


@pytest.mark.parametrize("change", ["replaced", "longer", "gone"])
def test_a_file_that_changed_since_it_was_checked_is_refused(change, parsed):
    found = parsed(written(WHOLE))
    place = next(found.places())
    if change == "replaced":
        os.utime(found.path, ns=(0, 1))
    elif change == "longer":
        found.path.write_bytes(found.path.read_bytes() + b"1")
    else:
        found.path.unlink()
    with pytest.raises(UserError, match=r"f: (has changed meanwhile|cannot be read)"):
        found.block(place)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.png", True),
        ("..", False),
        ("a/../../b", False),
        ("/etc/passwd", False),
        ("", False),
        ("a\0b", False),
        ("x" * 5000, False),
    ],
)
def test_names_stay_below_their_folder(name, expected):
    assert is_safe(name) == expected


def test_names_that_leave_the_folder_are_refused(parsed):
    outside = WHOLE._replace(names=["../a", "b", "c", "d"])
    with pytest.raises(UserError, match="made by something else"):
        parsed(written(outside))
