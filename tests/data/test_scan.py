import gzip
import hashlib
import pickle
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from mae.base.errors import UserError
from mae.data.labels import NO_LABEL
from mae.data.scan import LARGEST_IMAGE, scan, split_name
from mae.decoding.pixels import EXTENSIONS

MIDDLE = 32 * 512
"""of a tar of 32 samples of a header and a block each: the header of the 17th"""


def _flip(data, at, bit=0x10):
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


DAMAGES = {
    "cut at a header": lambda data: data[:MIDDLE],
    "cut after a header": lambda data: data[: MIDDLE + 512],
    "cut within a member": lambda data: data[: MIDDLE + 700],
    "hole over a header": lambda data: data[:MIDDLE] + bytes(512) + data[MIDDLE + 512 :],
    "hole over samples": lambda data: data[:MIDDLE] + bytes(4096) + data[MIDDLE + 4096 :],
    "flipped name": lambda data: _flip(data, MIDDLE + 3),
    "flipped checksum": lambda data: _flip(data, MIDDLE + 150, 0x01),
    "flipped size": lambda data: _flip(data, MIDDLE + 133, 0x01),
    "end blocks missing": lambda data: data[: 64 * 512],
    "garbage appended": lambda data: data + b"garbage " * 64,
    "two tars": lambda data: data + data,
    "gzip": gzip.compress,
    "web page": lambda data: b"<!DOCTYPE html><title>503</title>" + b" " * 2000,
    "nothing": lambda data: b"",
    "zeros and more": lambda data: bytes(1024) + data[1024:],
}


@pytest.fixture
def shard(tmp_path, make_tar):
    members = [("a.jpg", b"A" * 700), ("a.cls", b"3"), ("b.png", b"B" * 9), ("b.cls", b" 10\n")]
    return make_tar(tmp_path / "shard.tar", members)


@pytest.fixture
def samples(tmp_path, make_tar):
    """32 samples of 300 bytes: headers at multiples of 1024, the end at 32768 of 40960 bytes."""
    members = [(f"key-{number:02d}.jpg", bytes([number]) * 300) for number in range(32)]
    return make_tar(tmp_path / "samples.tar", members)


def keys_of(index):
    return index.keys.decode("utf-8", "surrogateescape").split("\0")


def refused(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    (line,) = str(error.value).splitlines()
    return line


def test_scan_finds_images_and_labels(shard):
    index = scan(shard)
    data = shard.read_bytes()
    contents = [data[o : o + s] for o, s in zip(index.offset, index.size, strict=True)]
    assert keys_of(index) == ["a", "b"]
    assert contents == [b"A" * 700, b"B" * 9]
    assert [EXTENSIONS[kind] for kind in index.kind] == ["jpg", "png"]
    assert index.label.tolist() == [3, 10]


def test_labels_are_optional_and_may_come_first(tmp_path, make_tar):
    members = [("a.cls", b"1"), ("b.jpg", b""), ("c.cls", b"2"), ("a.jpg", b""), ("c.json", b"{}")]
    index = scan(make_tar(tmp_path / "a.tar", members))
    assert keys_of(index) == ["b", "a"]
    assert index.label.tolist() == [NO_LABEL, 1]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"0.0", "no whole number"),
        (b"1e3", "no whole number"),
        (b"nan", "no whole number"),
        (b"-1", "negative"),
        (b"9" * 900, "longer than 200 bytes"),
        (b"2147483648", "larger than 2147483647"),
        (b"\xff", "not UTF-8"),
        ("7".encode("utf-16"), "UTF-16 or binary, not ASCII or UTF-8"),
        ("7".encode("utf-16-le"), "UTF-16 or binary, not ASCII or UTF-8"),
        (b'{"label": 7}', "JSON"),
        (b"[7]", "JSON"),
    ],
)
def test_a_label_that_is_no_class_number_is_none_and_named(tmp_path, make_tar, text, fault):
    """Pretraining needs no labels: a text is no reason to refuse a shard."""
    members = [("a.jpg", b"1"), ("a.cls", text), ("b.jpg", b"2"), ("b.cls", b"7")]
    index = scan(make_tar(tmp_path / "a.tar", members))
    assert keys_of(index) == ["a", "b"] and index.label.tolist() == [NO_LABEL, 7]
    assert [str(one) for one in index.passed_over] == [
        f"labels (.cls), {fault}: 1, first a.cls; write a class number, 0 or more, as text"
    ]


@pytest.mark.parametrize("text", [b"7", b" 7\r\n", b"+7", b"007", b"\xef\xbb\xbf7"])
def test_class_numbers_as_people_write_them(tmp_path, make_tar, text):
    index = scan(make_tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("a.cls", text)]))
    assert index.label.tolist() == [7] and index.passed_over == ()


def test_labels_that_contradict_each_other_are_none(tmp_path, make_tar):
    members = [("a.jpg", b"1"), ("a.cls", b"1"), ("a.CLS", b"2"), ("b.jpg", b""), ("c.cls", b"1")]
    index = scan(make_tar(tmp_path / "a.tar", members))
    assert index.label.tolist() == [NO_LABEL, NO_LABEL]
    assert [one.reason.what for one in index.passed_over] == [
        "labels (.cls), that contradict another of their key"
    ]
    assert index.others == (("cls", 1),)  # of no image


# Names of several dots, and images that are not read


def test_no_image_is_lost_to_dots_in_its_name(tmp_path, make_tar):
    members = [
        ("IMG_2019.05.01.jpg", b"1"),
        ("IMG_2019.05.01.cls", b"4"),
        ("x/IMG_2019.05.02.JPEG", b"2"),
        ("b.jpg", b"3"),
        ("v1.0.left.png", b"4"),
        ("v1.cls", b"5"),
        ("IMG_2019.05.01.mask.png", b"5"),
    ]
    index = scan(make_tar(tmp_path / "a.tar", members))
    assert keys_of(index) == ["IMG_2019.05.01", "x/IMG_2019.05.02", "b", "v1.0.left"]
    assert index.label.tolist() == [4, NO_LABEL, NO_LABEL, 5]
    assert np.all(np.diff(index.offset) > 0)
    assert index.passed_over == () and index.others == (("05.01.mask.png", 1),)


def test_images_beside_another_of_their_sample_are_no_samples(tmp_path, make_tar):
    members = [("a.depth.png", b"1"), ("a.jpg", b"2"), ("a.mask.png", b"3"), ("a.exr.gif", b"4")]
    index = scan(make_tar(tmp_path / "a.tar", [*members, ("b.mask.png", b""), ("b.seg.png", b"")]))
    assert keys_of(index) == ["a"] and index.passed_over == ()
    assert dict(index.others) == {"depth.png": 1, "mask.png": 2, "exr.gif": 1, "seg.png": 1}


def test_the_first_image_of_a_key_is_used_and_the_others_named(tmp_path, make_tar):
    members = [
        ("a.jpg", b"1"),
        ("a.png", b"2"),
        ("a.JPG", b"3"),
        ("b.1.jpg", b"4"),
        ("b.1.png", b""),
    ]
    index = scan(make_tar(tmp_path / "a.tar", members))
    assert keys_of(index) == ["a", "b.1"] and index.crc.tolist()[0] == zlib.crc32(b"1")
    assert [str(one) for one in index.passed_over] == [
        "images of a key that has one already: 3, first a.png (a.jpg is used); keep one, or make "
        "their names differ before the first dot"
    ]


@pytest.mark.parametrize(
    ("name", "content", "what", "remedy"),
    [
        ("b.heic", b"", ".heic images (HEIF)", "convert"),
        ("a.CR2", b"II*\0", ".cr2 images (camera raw)", "convert"),
        ("b.1.jxl", b"", ".jxl images (JPEG XL)", "convert"),
        ("b.svg", b"<svg", ".svg images (SVG)", "convert"),
        ("b.nii.gz", b"", ".gz images (NIfTI)", "convert"),
        (
            "b",
            b"\xff\xd8\xff\xe0",
            "images (JPEG) without an extension",
            "rename them to end in .jpeg",
        ),
        ("b.jpg.1", b"\xff\xd8\xff\xe0", "images (JPEG) named .1", "rename them to end in .jpeg"),
        ("b.img", b"\x89PNG\r\n\x1a\n", "images (PNG) named .img", "rename them to end in .png"),
        ("b.data", b"GIF89a", "images (GIF) named .data", "convert"),
        (".b.jpg", b"\xff\xd8\xff", "hidden files that hold images (JPEG)", "remove the dot"),
    ],
)
def test_images_that_are_not_read_are_counted_and_named(
    tmp_path, make_tar, name, content, what, remedy
):
    members = [("a.jpg", b"1"), (name, content), ("a.txt", b"BM and text"), ("._a.jpg", b"\0\5")]
    index = scan(make_tar(tmp_path / "a.tar", members))
    (found,) = index.passed_over
    assert (found.reason.what, found.count, found.first) == (what, 1, name)
    assert found.reason.remedy.startswith(remedy)
    assert keys_of(index) == ["a"] and dict(index.others) == {"txt": 1, "": 1}


@pytest.mark.parametrize("extension", ["jfif", "JPE", "jif", "pjpeg", "bmp", "avif"])
def test_every_extension_of_the_formats_is_read(tmp_path, make_tar, extension):
    index = scan(make_tar(tmp_path / "a.tar", [(f"a.{extension}", b"1")]))
    assert [EXTENSIONS[kind] for kind in index.kind] == [extension.lower()]


def test_a_link_costs_no_other_sample(tmp_path, make_tar):
    whole = make_tar(tmp_path / "a.tar", [("a.jpg", b"1")])
    link = tarfile.TarInfo("b.jpg")
    link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
    end = whole.read_bytes().index(bytes(1024))
    data = whole.read_bytes()[:1024] + link.tobuf(tarfile.GNU_FORMAT) + whole.read_bytes()[end:]
    whole.write_bytes(data)
    index = scan(whole)
    assert keys_of(index) == ["a"] and index.sha256 == hashlib.sha256(data).hexdigest()
    assert [str(one) for one in index.passed_over] == [
        "hard links: 1, first b.jpg; tar with --hard-dereference stores the files"
    ]


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("a.jpg", "a", "jpg"),
        ("A.JPG", "A", "jpg"),
        ("x/y/a.jpeg", "x/y/a", "jpeg"),
        ("x.y/z.1/a.png", "x.y/z.1/a", "png"),
        ("a.left.png", "a", "left.png"),
        ("README", "README", ""),
        ("x/.jpg", "x/.jpg", ""),
        ("._a.jpg", "._a.jpg", ""),
    ],
)
def test_names_split_as_webdataset_splits_them(name, key, extension):
    assert split_name(name) == (key, extension)


def test_uppercase_extensions_folders_and_odd_names(tmp_path, make_tar):
    members = [("x.y/A.JPG", b""), ("x.y/A.CLS", b"7"), ("写真.JPEG", b""), ("\udcff.png", b"")]
    index = scan(make_tar(tmp_path / "a.tar", members, tarfile.PAX_FORMAT))
    assert keys_of(index) == ["x.y/A", "写真", "\udcff"]
    assert index.label.tolist() == [7, NO_LABEL, NO_LABEL]


def test_equal_base_names_in_different_folders_are_different_keys(tmp_path, make_tar):
    index = scan(make_tar(tmp_path / "a.tar", [("x/a.jpg", b"1"), ("y/a.jpg", b"2")]))
    assert keys_of(index) == ["x/a", "y/a"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [("a.txt", b""), ("a.pkl", b""), ("b", b"")],
            "no images: expected JPEG, PNG, WebP, BMP, AVIF, TIFF, .npy, found "
            "1 without an extension, 1 .pkl, 1 .txt",
        ),
        (
            [(f"a.{i}.txt", b"") for i in range(9)],
            "found 1 .0.txt, 1 .1.txt, 1 .2.txt, 1 .3.txt, 1 .4.txt and 4 more kinds",
        ),
        ([("a.heic", b""), ("b.txt", b"")], "found .heic images (HEIF): 1, first a.heic; convert"),
    ],
)
def test_shards_without_images_are_refused(tmp_path, make_tar, members, message):
    path = make_tar(tmp_path / "a.tar", members)
    line = refused(scan, path)
    assert line.startswith(f"{path}: ") and message in line


def test_damage_is_named(shard):
    shard.write_bytes(shard.read_bytes()[:1024])
    assert refused(scan, shard).startswith(f"{shard}: is cut short")


def test_a_shard_that_is_gone_is_named(tmp_path):
    path = tmp_path / "a.tar"
    assert refused(scan, path) == f"{path}: cannot be read: No such file or directory"


def test_messages_call_the_shard_by_the_given_name(shard):
    shard.write_bytes(shard.read_bytes()[:1024])
    assert refused(scan, shard, "s3://bucket/a.tar").startswith("s3://bucket/a.tar: is cut short")


def test_an_empty_tar_is_a_shard_of_no_samples(tmp_path, make_tar):
    index = scan(make_tar(tmp_path / "a.tar", []))
    assert len(index.offset) == len(index.crc) == 0 and index.keys == b""
    assert index.bytes == 10_240


def test_checksums_are_those_of_the_images_and_of_the_file(shard):
    index = scan(shard)
    assert index.crc.tolist() == [zlib.crc32(b"A" * 700), zlib.crc32(b"B" * 9)]
    assert index.sha256 == hashlib.sha256(shard.read_bytes()).hexdigest()
    assert index.bytes == shard.stat().st_size


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1 << 20, (1 << 20) + 1, (3 << 20) + 7])
def test_the_sha256_covers_members_that_are_no_images(tmp_path, make_tar, size):
    members = [("a.jpg", b"1"), ("a.txt", bytes(size)), ("a.cls", b"1"), ("z.json", b"x" * size)]
    path = make_tar(tmp_path / "a.tar", members)
    assert scan(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_images_of_two_gigabytes_are_passed_over(tmp_path, make_tar, monkeypatch):
    assert LARGEST_IMAGE == 2**31
    monkeypatch.setattr("mae.data.scan.LARGEST_IMAGE", 5000)
    members = [("a.png", bytes(4999)), ("huge.png", bytes(5000)), ("b.png", b"")]
    path = make_tar(tmp_path / "a.tar", members)
    index = scan(path)
    assert keys_of(index) == ["a", "b"]
    assert index.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [str(one) for one in index.passed_over] == [
        "images of 2 GB or more: 1, first huge.png; reduce them"
    ]


# What a hostile or careless tar may hold: nothing is written, followed or executed


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_foreign_members_are_left_alone(tmp_path, make_tar):
    work = tmp_path / "work"
    work.mkdir()
    trap = pickle.dumps(Trap(work / "executed"))
    members = [(f"a.{name}", trap) for name in ("pyd", "pkl", "pickle", "pth", "pkl.gz", "pt")]
    path = make_tar(work / "a.tar", [("a.jpg", b"image"), *members, ("a.cls", b"1")])
    index = scan(path)
    assert keys_of(index) == ["a"] and index.label.tolist() == [1]
    assert list(work.iterdir()) == [path]


@pytest.mark.parametrize("name", ["../../x.jpg", "../x.jpg", "/etc/x.jpg", "a/../../x.jpg"])
def test_names_that_lead_elsewhere_are_names_alone(tmp_path, make_tar, monkeypatch, name):
    work = tmp_path / "some" / "work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    path = make_tar(work / "a.tar", [(name, b"image")])
    before = sorted(tmp_path.rglob("*"))
    index = scan(path)
    assert keys_of(index) == [name.removesuffix(".jpg")]
    assert path.read_bytes()[index.offset[0] :][:5] == b"image"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "option"), [(tarfile.SYMTYPE, "dereference"), (tarfile.LNKTYPE, "hard-dereference")]
)
def test_links_are_not_followed(tmp_path, kind, option):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    link = tarfile.TarInfo("a.jpg")
    link.type, link.linkname = kind, str(secret)
    path = tmp_path / "a.tar"
    path.write_bytes(link.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert f"links: 1, first a.jpg; tar with --{option} stores the files" in refused(scan, path)


# Damage before indexing: the shard is refused, by name


def test_a_flipped_byte_of_content_is_not_seen_by_tar(samples):
    """Tars have no checksums of contents: only the index knows, once it is made."""
    before = scan(samples)
    data = bytearray(samples.read_bytes())
    data[before.offset[3] + 5] ^= 1
    samples.write_bytes(data)
    assert np.flatnonzero(scan(samples).crc != before.crc).tolist() == [3]


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_of_every_kind_is_refused_by_name(samples, kind):
    samples.write_bytes(DAMAGES[kind](samples.read_bytes()))
    assert refused(scan, samples).startswith(f"{samples}: ")


def test_end_blocks_are_missed(samples):
    """One is enough, as tar programs have it; none means that members may be missing, too."""
    data = samples.read_bytes().rstrip(b"\0")
    data += bytes(-len(data) % 512)
    samples.write_bytes(data + bytes(512))
    assert len(scan(samples).offset) == 32
    samples.write_bytes(data)
    assert "no end-of-archive block" in refused(scan, samples)
