"""Images and labels that are not read are counted and named by every command that meets them."""

import io
import json
import tarfile

import pytest
from PIL import Image

from mae.base.errors import UserError
from mae.cli import main
from mae.data.indexing import build_manifest
from mae.data.required_labels import require_labels
from mae.pretrain import main as pretrain
from mae.storage.cache import ShardCache
from tests.runs import write_config
from tests.servers import body


@pytest.fixture
def odd(tmp_path, make_image, make_tar):
    """A tar of ten images that are read, and of each kind that is not, with the lines expected."""

    def encoded(number, format):
        file = io.BytesIO()
        Image.fromarray(make_image(number)).save(file, format)
        return file.getvalue()

    names = [f"IMG_2019.05.{day:02}.jpg" for day in range(6)]
    members = [(name, encoded(number, "JPEG")) for number, name in enumerate(names)]
    members += [("a.jfif", encoded(6, "JPEG")), ("b.JPE", encoded(7, "JPEG"))]
    members += [("c.bmp", encoded(8, "BMP")), ("d.avif", encoded(9, "AVIF"))]
    members += [("a.cls", b"cat"), ("a.json", b"{}"), ("b.cls", b"0.0")]
    members += [("e.heic", b""), ("f.HEIC", b""), ("g", encoded(1, "PNG")), ("c.png", b"")]
    shard = make_tar(tmp_path / "odd.tar", members)
    with tarfile.open(shard, "a") as tar:
        link = tarfile.TarInfo("h.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, names[0]
        tar.addfile(link)
    convert = "convert them to one of JPEG, PNG, WebP, BMP, AVIF, TIFF, .npy"
    return shard, [
        f".heic images (HEIF): 2, first PLACEe.heic; {convert}",
        "images (PNG) without an extension: 1, first PLACEg; rename them to end in .png",
        "images of a key that has one already: 1, first PLACEc.png (c.bmp is used); keep one, or "
        "make their names differ before the first dot",
        "hard links: 1, first PLACEh.jpg; tar with --hard-dereference stores the files",
        "labels (.cls), no whole number: 1, first PLACEb.cls; write a class number, 0 or more, as "
        "text",
        "labels (.cls), text instead of a class number: 1, first PLACEa.cls (cat); list the class "
        "names in a classes.txt beside the shard, one a line in the order of their numbers",
    ]


def named(lines, place):
    return sorted(f"not read: {line.replace('PLACE', place)}" for line in lines)


def test_mae_index_warns(odd, capsys):
    shard, lines = odd
    for _ in range(2):  # also from the cached index
        assert main(["index", str(shard)]) == 0
        printed = capsys.readouterr().out.splitlines()
        warned = [line.removeprefix("warning      ") for line in printed if "warning" in line]
        assert sorted(warned) == named(lines, f"{shard}: ")
        assert "images       10: 6 jpg, 1 jfif, 1 jpe, 1 bmp, 1 avif" in printed
        assert "not read     1 .json" in printed


def test_other_loaders_would_join_images_with_dots(odd, tmp_path, make_tar, capsys):
    shard, _ = odd
    for option in (["--wds2idx"], ["--wids", str(tmp_path / "index.json")]):
        assert main(["index", str(shard), *option]) == 2
        assert f"{shard}: key IMG_2019.05.00: other loaders end a key" in capsys.readouterr().err
    members = [("a.heic", b""), ("b.jpg", b""), ("b.txt", b""), ("c.json", b"")]
    shard = make_tar(tmp_path / "plain.tar", members)
    assert main(["index", str(shard), "--wids", str(tmp_path / "index.json")]) == 0
    assert json.loads((tmp_path / "index.json").read_text())["shardlist"][0]["nsamples"] == 3


def test_images_beside_the_one_of_their_key_are_named(tmp_path, make_image, make_tar, capsys):
    """They belong to the sample, and are no fault."""
    file = io.BytesIO()
    Image.fromarray(make_image(0)).save(file, "PNG")
    members = [(name, file.getvalue()) for name in ("a.png", "a.1.png", "a.mask.png")]
    shard = make_tar(tmp_path / "a.tar", [*members, ("a.json", b"{}")])
    assert main(["verify", str(shard), "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "not decoded, no samples of their own: 1 .1.png, 1 .json, 1 .mask.png\n" in out
    assert main(["index", str(shard)]) == 0
    assert (
        "warning      not read: 1 .1.png: images beside the one of their" in capsys.readouterr().out
    )


def test_labels_that_are_none_are_named_where_labels_are_needed(tmp_path, make_tar):
    members = [("a.jpg", b""), ("a.cls", b"cat"), ("b.jpg", b""), ("b.cls", b"1")]
    shard = make_tar(tmp_path / "a.tar", members)
    with pytest.raises(UserError) as error:
        require_labels(build_manifest([str(shard)]), "--train")
    assert str(error.value) == (
        f"--train: 1 of 2 samples have no label (.cls), first {shard}: key a; not read: labels "
        f"(.cls), text instead of a class number: 1, first {shard}: a.cls (cat); list the class "
        "names in a classes.txt beside the shard, one a line in the order of their numbers"
    )


def test_mae_verify_is_never_all_good_about_what_it_did_not_read(odd, capsys):
    shard, lines = odd
    assert main(["verify", str(shard), "--workers", "0"]) == 1
    out, err = capsys.readouterr()
    defects = [line for line in out.splitlines() if line.startswith(f"{shard}: ")]
    assert sorted(defects) == [f"{shard}: {line}" for line in named(lines, "")]
    assert "not decoded, no samples of their own: 1 .json" in out
    assert err == "mae: 10 images in 1 shard: 7 more files not read\n"


def test_a_run_warns_at_its_start(odd, tmp_path, capsys):
    shard, lines = odd
    assert pretrain([str(write_config(tmp_path, str(shard))), "--dry-run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    warned = [line.removeprefix("warning: ") for line in printed if line.startswith("warning: ")]
    about_files = [line for line in warned if str(shard) in line]
    assert sorted(about_files) == named(lines, f"{shard}: ")


def test_a_run_warns_of_held_out_images_once(odd, tmp_path, capsys):
    shard, lines = odd
    words = [str(write_config(tmp_path, str(shard))), f"data.val={shard}", "train.epochs=1"]
    words += ["train.batch_size=4", "optim.warmup_epochs=0", "log.wandb=false"]
    assert pretrain(words) == 0
    start = "warning: data.val: "
    printed = capsys.readouterr().err.splitlines()
    warned = [line.removeprefix(start) for line in printed if line.startswith(start)]
    assert sorted(warned) == named(lines, f"{shard}: ")


def test_mae_pack_names_them(odd, tmp_path, capsys):
    shard, lines = odd
    assert main(["pack", str(shard), str(tmp_path / "out"), "--workers", "0"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line for line in named(lines, f"{shard}: ") if line not in out] == []
    assert "not packed: 1 .json" in out


def test_class_names_beside_remote_shards_do_the_same(tmp_path, make_tar, server):
    shard = make_tar(tmp_path / "a.tar", [("a.jpg", b""), ("a.cls", b"dog")])
    url = server.serve("/a.tar", body(shard.read_bytes(), etag="1"))
    server.serve("/classes.txt", body(b"cat\ndog\n", etag="1"))
    cache = ShardCache(tmp_path / "cache", 10**9)
    manifest = build_manifest([url], index_dir=tmp_path / "index", cache=cache)
    assert manifest.label.tolist() == [1] and manifest.warnings() == []


def test_class_names_beside_the_shards_number_labels_that_are_text(tmp_path, make_tar, capsys):
    members = [("a.jpg", b""), ("a.cls", b"dog\n"), ("b.jpg", b""), ("b.cls", b"bird")]
    shard = make_tar(tmp_path / "a.tar", [*members, ("c.jpg", b""), ("c.cls", b"2")])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert main(["index", str(shard)]) == 0
    out = capsys.readouterr().out
    assert "labels       2 samples, 2 classes" in out
    assert (
        f"that the classes.txt beside the shard does not list: 1, first {shard}: b.cls (bird)"
        in out
    )
    (tmp_path / "classes.txt").write_text("bird\ndog\ncat\n")  # the cached index holds the names
    assert main(["index", str(shard)]) == 0
    out = capsys.readouterr().out
    assert "labels       3 samples, 3 classes" in out and "warning" not in out
