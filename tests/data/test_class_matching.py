from pathlib import Path

import numpy as np
import pytest

from mae.base.errors import StorageError, UserError
from mae.data.class_matching import in_classes_of, match_note, renumber, with_class_names
from mae.data.indexing import build_manifest
from mae.data.labels import NO_LABEL
from mae.storage.cache import ShardCache
from tests.servers import body, status


@pytest.fixture
def packed(tmp_path, make_tar, make_image):
    """`packed(folder, names, labels)` → manifest of one shard, with names beside it unless None."""

    def packed(folder, names, labels):
        pattern = shard(tmp_path / folder, names, labels, make_tar)
        return build_manifest([pattern])

    return packed


def shard(folder, names, labels, make_tar):
    folder.mkdir()
    members = []
    for number, label in enumerate(labels):
        members.append((f"{number}.jpg", b"image"))
        members += [(f"{number}.cls", str(label).encode())] * (label is not None)
    make_tar(folder / "a.tar", members)
    if names is not None:
        text = "".join(f"{name}\n" for name in names)
        (folder / "classes.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    return f"{folder}/a.tar"


def named(manifest):
    return with_class_names(manifest, "--test")


def test_a_subset_of_classes_is_renumbered_by_name(packed):
    train = named(packed("tr", ["a", "b", "c"], [0, 1, 2]))
    test = named(packed("va", ["a", "c"], [0, 1, 1, None]))
    assert test.label.tolist() == [0, 1, 1, NO_LABEL]
    found = in_classes_of(test, train.class_names, "--test", "--train")
    assert found.label.tolist() == [0, 2, 2, NO_LABEL] and found.label.dtype == test.label.dtype
    assert found.class_names == ("a", "b", "c")
    back = in_classes_of(named(packed("re", ["c", "b", "a"], [0, 1, 2])), ("a", "b", "c"), "x", "y")
    assert back.label.tolist() == [2, 1, 0]
    unused = named(packed("more", ["a", "c", "zebra"], [0, 1]))
    assert in_classes_of(unused, train.class_names, "--test", "--train").label.tolist() == [0, 2]


@pytest.mark.parametrize("names", [["a", "x"], ["x", "y"], ["A", "c"]])
def test_other_classes_are_refused_with_both_lists_and_the_remedy(packed, names):
    test = named(packed("va", names, [0, 1]))
    with pytest.raises(UserError) as error:
        in_classes_of(test, ("a", "b", "c"), "--test", "RUN")
    message = str(error.value)
    unknown = ", ".join(name for name in names if name not in "abc")
    assert f"not in RUN: {unknown} (" in message and message.count("\n") == 0
    assert f"--test has {', '.join(names)}; RUN has a, b, c" in message
    assert "mae pack --classes" in message


def test_without_names_numbers_are_compared_and_said_so(packed):
    bare = named(packed("bare", None, [0, 2]))
    assert bare.class_names == ()
    assert in_classes_of(bare, ("a", "b", "c"), "--test", "RUN").label.tolist() == [0, 2]
    assert match_note((), ("a",), "--test", "RUN").endswith(
        "no class names (classes.txt) of --test"
    )
    assert match_note(("a",), (), "--test", "RUN").endswith("(classes.txt) of RUN")
    assert match_note((), (), "--test", "RUN").endswith("(classes.txt) of --test and RUN")
    assert match_note(("a",), ("a",), "--test", "RUN") == ""
    assert "by name" in match_note(("a",), ("a", "b"), "--test", "RUN")


def test_classes_called_by_digits_are_names(packed):
    """Not the numbers of a data set without names."""
    digits = named(packed("digits", ["1", "0"], [0, 1]))
    assert in_classes_of(digits, ("0", "1"), "--test", "RUN").label.tolist() == [1, 0]
    with pytest.raises(UserError, match="2 classes are not in RUN: cat, dog"):
        in_classes_of(named(packed("pets", ["cat", "dog"], [0, 1])), ("0", "1"), "--test", "RUN")


def test_folders_of_one_data_set_get_one_numbering(tmp_path, make_tar):
    shards = [
        shard(tmp_path / "va", ["a", "c"], [0, 1], make_tar),
        shard(tmp_path / "tr", ["a", "b", "c"], [0, 1, 2], make_tar),
        shard(tmp_path / "bare", None, [2], make_tar),
    ]
    found = named(build_manifest(shards))
    assert found.label.tolist() == [0, 2, 0, 1, 2, 2] and found.class_names == ("a", "b", "c")
    assert found.warnings() == [
        f"class numbers of {shards[2]} taken as those of {tmp_path}/tr/classes.txt: "
        "no classes.txt beside it"
    ]
    assert named(build_manifest(shards[:2])).warnings() == []
    other = shard(tmp_path / "other", ["x"], [0], make_tar)
    with pytest.raises(UserError, match=r"--test: .*other/classes\.txt: 1 class is not in .*tr/"):
        named(build_manifest([*shards, other]))
    beyond = shard(tmp_path / "beyond", None, [3], make_tar)
    with pytest.raises(
        UserError, match=r"tr/classes\.txt names 3 classes, but .*beyond/.* label 3"
    ):
        named(build_manifest([*shards, beyond]))


def test_names_that_are_too_few_are_refused(packed):
    with pytest.raises(UserError, match=r"names 2 classes, but .*a\.tar: key 1 has label 2"):
        named(packed("few", ["a", "b"], [0, 2]))


def test_names_as_files_hold_them(tmp_path, make_tar):
    path = shard(tmp_path / "x", [], [0, 1], make_tar)
    for content, names in (
        (b"\xef\xbb\xbfcat\r\ndog\r\n\r\n", ("cat", "dog")),
        (b"caf\x65\xcc\x81\ntab\\there\x0bsame line", ("café", "tab\there\x0bsame line")),
        (b"Gr\xfcn\nrot", ("Gr\udcfcn", "rot")),
        (b"", ()),
    ):
        (tmp_path / "x" / "classes.txt").write_bytes(content)
        assert named(build_manifest([path])).class_names == names
    (tmp_path / "x" / "classes.txt").write_bytes("cat\ndog\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"classes\.txt: is not text in UTF-8"):
        named(build_manifest([path]))


def test_classes_of_one_name_cannot_be_matched_but_may_be_the_same():
    labels = np.array([0, 1, 2])
    twice = ("crane", "crane", "cat")
    assert renumber(labels, twice, twice, "--test", "RUN") is labels
    with pytest.raises(UserError, match="several classes are called crane"):
        renumber(labels, twice, ("cat", "crane"), "--test", "RUN")


def test_names_beside_remote_shards(server, tmp_path, make_tar):
    """Read once a folder; absent is no error, a server that fails is one."""
    tar = Path(shard(tmp_path / "tr", None, [0, 1], make_tar)).read_bytes()
    shards = [server.serve(f"/tr/{n}.tar", body(tar)) + f"?sig={n}" for n in "ab"]
    cache = ShardCache(tmp_path / "cache", 10**9)
    found = build_manifest(shards, index_dir=tmp_path / "index", cache=cache)
    for code in (404, 403):
        server.serve("/tr/classes.txt", status(code))
        assert named(found).class_names == ()
    server.serve("/tr/classes.txt", body(b"cat\ndog\n"))
    before = server.gets("/tr/classes.txt")
    assert named(found).class_names == ("cat", "dog")
    assert server.gets("/tr/classes.txt") == before + 1
    server.serve("/tr/classes.txt", status(500))
    with pytest.raises(StorageError, match=r"/tr/classes\.txt: HTTP 500"):
        named(found)
