import errno
import gzip
import io
import os
import shutil
import subprocess
import tarfile
from itertools import islice

import pytest

from mae.base.errors import StorageError, UserError
from mae.data.tar_members import KINDS, LONGEST_PADDING, Member, members, read_member, walk

BLOCK = 512
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
IMAGES = [("a.jpg", b"A" * 700), ("a.cls", b"3"), ("b.jpg", b"B" * 1024), ("b.cls", b"1")]


@pytest.fixture
def shard(tmp_path, make_tar):
    """Two samples: headers at 0, 1536, 2560, 4096; the end at 5120 of 10240 bytes."""
    return make_tar(tmp_path / "shard.tar", IMAGES)


def contents(path):
    """(name, bytes) of all members, by our walk."""
    data = path.read_bytes()
    return [(m.name, data[m.offset : m.offset + m.size]) for m in walk(path)]


def contents_by_tarfile(path):
    with tarfile.open(path) as tar:
        files = [(member.name, tar.extractfile(member)) for member in tar if member.isreg()]
        return [(name, file.read()) for name, file in files if file]


def refused(path):
    with pytest.raises(UserError) as error:
        list(walk(path))
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def header(name, size=0, type=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = type, size, link
    return member.tobuf(tarfile.GNU_FORMAT)


def padded(data):
    return data + bytes(-len(data) % BLOCK)


def record(key, value):
    """One PAX record; its length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


def pax(*records):
    data = b"".join(records)
    return header("pax", len(data), tarfile.XHDTYPE) + padded(data)


END = bytes(2 * BLOCK)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(
    "members",
    [
        IMAGES,
        [],
        [("empty.jpg", b""), ("a.jpg", b"x"), ("also-empty.cls", b"")],
        [("bytes.jpg", bytes(512)), ("exact.jpg", b"y" * 1024)],
        [("folder/" + "n" * 90 + ".jpg", b"in a folder"), ("d" * 100, b"a name of 100")],
        [("a/" * 60 + "deep.jpg", b"a name of over 100"), ("after.jpg", b"short again")],
        [("größe/写真.jpg", b"unicode"), ("naïve key.cls", b"2")],
    ],
    ids=["samples", "none", "empty-members", "whole-blocks", "folder", "long-path", "unicode"],
)
def test_agrees_with_tarfile(tmp_path, make_tar, members, format):
    path = make_tar(tmp_path / "a.tar", members, format)
    assert contents(path) == contents_by_tarfile(path) == members


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
@pytest.mark.parametrize("name", ["n" * 300 + ".jpg", "ü" * 5000 + ".jpg"], ids=["300", "10000"])
def test_names_longer_than_a_header_agree_with_tarfile(tmp_path, make_tar, name, format):
    members = [(name, b"long"), ("short.jpg", b"short")]
    path = make_tar(tmp_path / "a.tar", members, format)
    assert contents(path) == contents_by_tarfile(path) == members


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_folders_are_skipped(tmp_path, format):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=format) as tar:
        for name in ("d", "d/" + "e" * 90):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        image = tarfile.TarInfo("d/a.jpg")
        image.size = 3
        tar.addfile(image, io.BytesIO(b"abc"))
    assert contents(path) == contents_by_tarfile(path) == [("d/a.jpg", b"abc")]


def test_names_that_are_no_utf8_stay_apart(tmp_path, make_tar):
    for format in FORMATS.values():
        members = [("\udcff.jpg", b"1"), ("\udcfe.jpg", b"2"), ("\udcfd" * 120 + ".jpg", b"3")]
        members = members[:2] if format == tarfile.USTAR_FORMAT else members
        path = make_tar(tmp_path / "a.tar", members, format)
        assert contents(path) == members


def test_pax_overrides_hold_for_the_next_member_alone(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(
        header("global", 12, tarfile.XGLTYPE)
        + padded(b"12 comment=\n")
        + pax(record(b"path", b"other.jpg"), record(b"size", b"600"), record(b"mtime", b"1.5"))
        + header("a.jpg", 0)
        + padded(b"x" * 600)
        + header("b.jpg", 2)
        + padded(b"yy")
        + END
    )
    expected = [("other.jpg", b"x" * 600), ("b.jpg", b"yy")]
    assert contents(path) == contents_by_tarfile(path) == expected


def test_a_single_end_block_and_none_of_the_padding_is_enough(shard):
    shard.write_bytes(shard.read_bytes()[: 5120 + BLOCK])
    assert contents(shard) == IMAGES


def test_truncation_at_every_block_is_damage(shard):
    whole = shard.read_bytes()
    for end in range(0, len(whole), BLOCK):
        shard.write_bytes(whole[:end])
        if end > 5120:  # nothing but padding is gone
            assert contents(shard) == IMAGES
        else:
            message = refused(shard)
            assert message == "is empty (0 bytes)" if end == 0 else "cut short" in message, end


@pytest.mark.parametrize("end", [1, 300, 511])
def test_less_than_a_block_is_no_tar(shard, end):
    shard.write_bytes(shard.read_bytes()[:end])
    assert refused(shard) == "is not a tar"


@pytest.mark.parametrize("end", [513, 1000, 1537, 5119, 5121, 5631])
def test_truncation_within_a_block_is_damage(shard, end):
    shard.write_bytes(shard.read_bytes()[:end])
    assert "cut short" in refused(shard)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_truncation_in_a_long_name_is_damage(tmp_path, make_tar, format):
    path = make_tar(tmp_path / "a.tar", [("n" * 700 + ".jpg", b"x")], format)
    whole = path.read_bytes()
    end = whole.rindex(b"x") - 1  # of the member's own header
    for cut in range(BLOCK, end, BLOCK):
        path.write_bytes(whole[:cut])
        assert "cut short" in refused(path) or "unreadable PAX record" in refused(path)


@pytest.mark.parametrize("at", [0, 1536, 2560, 4096])
@pytest.mark.parametrize("byte", [0, 100, 125, 150, 156, 300])
def test_a_flipped_header_byte_is_damage(shard, at, byte):
    data = bytearray(shard.read_bytes())
    data[at + byte] ^= 0x01
    shard.write_bytes(data)
    assert refused(shard) == (
        "is not a tar" if at == 0 else f"is damaged at byte {at}: bad checksum"
    )


@pytest.mark.parametrize(
    ("at", "blocks"),
    [(0, 1), (0, 3), (0, 5), (1536, 1), (1536, 5), (2560, 1), (2560, 3), (4096, 1)],
)
def test_a_hole_over_a_header_is_damage(shard, at, blocks):
    # To tarfile and webdataset the hole is the end: the samples behind it are lost silently.
    data = bytearray(shard.read_bytes())
    data[at : at + blocks * BLOCK] = bytes(blocks * BLOCK)
    shard.write_bytes(data)
    assert refused(shard) == f"is damaged at byte {at}: a hole of zeros, with more behind it"


def test_a_short_hole_to_the_very_end_equals_padding(shard):
    data = shard.read_bytes()
    shard.write_bytes(data[:4096] + bytes(len(data) - 4096))
    assert contents(shard) == IMAGES[:3]


def test_a_hole_to_the_end_is_damage_where_no_padding_is_so_long(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(header("a.jpg", 1) + padded(b"a") + bytes(LONGEST_PADDING))
    assert len(contents(path)) == 1
    path.write_bytes(header("a.jpg", 1) + padded(b"a") + bytes(LONGEST_PADDING + BLOCK))
    assert refused(path) == "is damaged at byte 1024: a hole of zeros, not the end"


def test_two_archives_one_behind_the_other_are_damage(shard):
    shard.write_bytes(shard.read_bytes() * 2)
    assert "a hole of zeros, with more behind it" in refused(shard)


@pytest.mark.parametrize("body", [b"<html><body>404</body></html>", b"<!DOCTYPE html>" * 100])
def test_a_web_page_is_no_tar(tmp_path, body):
    path = tmp_path / "a.tar"
    path.write_bytes(body)
    assert refused(path) == "is not a tar"


@pytest.mark.parametrize("length", [40, 5000])
def test_a_compressed_tar_is_named_so(tmp_path, length):
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(bytes(range(256)) * 40, compresslevel=0)[:length])
    assert refused(path) == "is compressed: unpack it first"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_members_of_their_kind(tmp_path, kind):
    """One with a size holds nothing all the same, and a long target is a member of its own."""
    long = header("././@LongLink", 300, tarfile.GNUTYPE_LONGLINK) + padded(b"t" * 300)
    path = tmp_path / "a.tar"
    data = header("a.jpg", 1) + padded(b"a") + long + header("b.jpg", 7, kind, "/etc/x")
    path.write_bytes(data + header("c.jpg", 1) + padded(b"c") + END)
    assert contents(path) == contents_by_tarfile(path) == [("a.jpg", b"a"), ("c.jpg", b"c")]
    assert {m.name: m.kind for m in members(path) if m.kind} == {"b.jpg": KINDS[kind]}


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, b"M", b"Z"])
def test_what_is_no_file_is_a_member_of_its_kind(tmp_path, kind):
    path = tmp_path / "a.tar"
    size = 9 if kind in (b"M", b"Z") else 0
    data = header("b.jpg", size, kind) + padded(bytes(size))
    path.write_bytes(header("volume", 0, b"V") + data + header("c.jpg", 1) + padded(b"c") + END)
    assert contents(path) == [("c.jpg", b"c")]
    (other,) = [member for member in members(path) if member.kind]
    assert other.name == "b.jpg" and other.kind is not None


@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_sparse_files_of_tar_itself_are_passed_over(tmp_path, format):
    """With 30 holes, so that the map of GNU's format has blocks of its own."""
    if shutil.which("tar") is None:
        pytest.skip("no tar program here")
    with (tmp_path / "holes.jpg").open("wb") as file:
        for number in range(30):
            file.seek(number << 17)
            file.write(b"x" * 4096)
    (tmp_path / "whole.jpg").write_bytes(b"whole")
    path = tmp_path / "a.tar"
    options = ["--sparse", f"--format={format}", "-C", tmp_path, "-cf", path]
    subprocess.run(["tar", *options, "holes.jpg", "whole.jpg"], check=True)
    if path.stat().st_size > 2 << 20:
        pytest.skip("this file system has no holes")
    assert contents(path) == [("whole.jpg", b"whole")]
    (sparse,) = [member for member in members(path) if member.kind]
    assert (sparse.name, sparse.kind) == ("holes.jpg", KINDS[tarfile.GNUTYPE_SPARSE])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(b"size", b"many")], "a size of b'many'"),
        ([record(b"size", b"-512")], "a size of b'-512'"),
        ([record(b"size", b"9" * 5000)], "a size of b'999"),
        ([b"9" * 5000 + b" path=ab\n"], "unreadable PAX record"),
        ([record(b"size", b"99999")], "is cut short: a.jpg ends at byte"),
        ([b"99 path=short\n"], "unreadable PAX record"),
        ([b"10 path=ab"], "unreadable PAX record"),
        ([b"0 path=ab\n"], "unreadable PAX record"),
        ([b"path=ab\n"], "unreadable PAX record"),
    ],
)
def test_damaged_pax_records(tmp_path, records, message):
    path = tmp_path / "a.tar"
    path.write_bytes(pax(*records) + header("a.jpg", 1) + padded(b"a") + END)
    assert message in refused(path)


def test_a_name_beyond_reason_is_damage(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(header("long", 2**21, tarfile.GNUTYPE_LONGNAME) + END)
    assert "a name of 2097152 bytes" in refused(path)


def test_a_negative_size_does_not_send_the_walk_round_and_round(tmp_path):
    data = bytearray(header("a.jpg", 1))
    data[124:136] = (256**12 - BLOCK).to_bytes(12, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    path = tmp_path / "a.tar"
    path.write_bytes(data + END)
    with pytest.raises(UserError, match="is damaged at byte 0: a negative size"):
        list(islice(walk(path), 10))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    assert refused(tmp_path / "nope.tar") == "cannot be read: No such file or directory"


def test_a_failed_read_of_a_member_names_the_shard():
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(StorageError, match=r"^a.tar: cannot be read: Input/output error$"):
        read_member(Failing(), "a.tar", Member("x.cls", 0, 1))
    assert read_member(io.BytesIO(b"0123"), "a.tar", Member("x.cls", 2, 2)) == b"23"
    with pytest.raises(StorageError, match=r"^a.tar: cannot be read: was cut short"):
        read_member(io.BytesIO(b"0123"), "a.tar", Member("x.cls", 2, 3))
