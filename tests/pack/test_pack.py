import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from webdataset import tariterators

from mae.base.errors import PartDone, RunFailed, StorageError, UserError, WorkerDied
from mae.base.portion import ALONE, Portion
from mae.cli import main as mae
from mae.data.indexing import build_manifest
from mae.data.labels import NO_LABEL
from mae.data.shard_reader import ShardReader
from mae.decoding.decode import decode_native
from mae.pack import summary as pack_report
from mae.pack.listing import PackRequest
from mae.pack.pack import pack
from mae.pack.shard_plan import PackOptions
from mae.pack.shard_writer import ShardWriter
from mae.pack.summary import suggested_settings, summary_lines

write_shard = ShardWriter.write


@pytest.fixture
def save(tmp_path, make_image):
    """`save(name, number=0)` writes a small image below `tmp_path/images`, by its extension."""

    def save(name, number=0, size=(12, 16)):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(number, size)).save(path)
        return path

    return save


@pytest.fixture
def classes(tmp_path, save):
    """A folder of two classes with five images each."""
    for number in range(10):
        save(f"{'cat' if number % 2 else 'dog'}/{number}.{'png' if number == 3 else 'jpg'}", number)
    return tmp_path / "images"


def pack_folder(
    source, out, labels=None, workers=0, portion=ALONE, progress=None, log=print, **options
):
    request, options = PackRequest((str(source),), labels=labels), PackOptions(**options)
    return pack(request, out, options, workers=workers, portion=portion, progress=progress, log=log)


def content(folder):
    """Bytes of all files except `pack.json`, which names the folder; indexes without times."""
    files = {
        p.name: p.read_bytes() for p in folder.iterdir() if p.name != "pack.json" and p.is_file()
    }
    for shard in folder.glob("*.tar"):
        index = load_file(folder / ".mae-index" / f"{shard.name}.safetensors")
        files |= {f"{shard.name} {name}": values.tobytes() for name, values in index.items()}
    (statistics,) = (folder / ".mae-index").glob("statistics-*.json")
    return files | {statistics.name: statistics.read_bytes()}


def refused(*arguments, **options):
    with pytest.raises(UserError) as error:
        pack_folder(*arguments, **options)
    (line,) = str(error.value).splitlines()
    return line


def read_by_webdataset(shard):
    """The samples of one shard; webdataset's own opener would leave it open."""
    with shard.open("rb") as file:
        files = tariterators.tar_file_expander([{"url": str(shard), "stream": file}])
        return list(tariterators.group_by_keys(files))


def sources(out):
    """Key → source file, from sources.tsv."""
    header, *rows = (out / "sources.tsv").read_text().splitlines()
    assert header == "key\tfile"
    return dict(row.split("\t") for row in rows)


def shards(out):
    return sorted(path.name for path in out.glob("*.tar"))


def test_images_are_stored_unchanged(classes, tmp_path):
    out = tmp_path / "out"
    packed = pack_folder(classes, out, shard_size=4)
    assert packed.splits == {"train": 10} and packed.shards == {"train": 3}
    assert shards(out) == [f"train-00000{i}.tar" for i in range(3)]
    manifest = build_manifest([f"{out}/train-*.tar"])
    assert manifest.counts().tolist() == [4, 4, 2]
    reader = ShardReader(manifest)
    files = sources(out)
    for sample in range(10):
        source = classes / files.pop(manifest.key(sample))
        assert reader.read(sample) == source.read_bytes()
        assert manifest.label[sample] == ["cat", "dog"].index(source.parent.name)
    assert not files
    assert (out / "classes.txt").read_text() == "cat\ndog\n"
    left = {"classes.txt", "sources.tsv", "pack.json", ".mae-index", *shards(out)}
    left.add("manifest-train.safetensors")
    assert {path.name for path in out.iterdir()} == left


def test_webdataset_reads_the_shards(classes, tmp_path):
    out = tmp_path / "out"
    pack_folder(classes, out, shard_size=4)
    samples = [sample for shard in shards(out) for sample in read_by_webdataset(out / shard)]
    files = sources(out)
    assert [sample["__key__"] for sample in samples] == list(files)
    for sample in samples:
        source = classes / files[sample["__key__"]]
        assert sample[source.suffix[1:]] == source.read_bytes()
        assert sample["cls"] == str(["cat", "dog"].index(source.parent.name)).encode()


def test_packing_twice_gives_the_same_bytes(classes, tmp_path):
    (classes / "cat" / "bad.jpg").write_bytes(b"no image")
    for name, workers in (("one", 0), ("two", 1), ("three", 3)):
        pack_folder(classes, tmp_path / name, shard_size=4, val_fraction=0.2, workers=workers)
    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "three")
    pack_folder(classes, tmp_path / "four", shard_size=4, val_fraction=0.2, seed=1)
    assert content(tmp_path / "one") != content(tmp_path / "four")


def test_images_are_shuffled_by_seed(tmp_path, save):
    for number in range(30):
        save(f"{number:02}.png", number)
    firsts = set()
    for seed in range(3):
        pack_folder(tmp_path / "images", tmp_path / f"out{seed}", seed=seed)
        order = [int(Path(name).stem) for name in sources(tmp_path / f"out{seed}").values()]
        assert sorted(order) == list(range(30)) and order != sorted(order)
        firsts.add(order[0])
    assert len(firsts) > 1


def test_validation_images_are_split_off(classes, tmp_path):
    out = tmp_path / "out"
    packed = pack_folder(classes, out, shard_size=2, val_fraction=0.3)
    assert packed.splits == {"train": 7, "val": 3}
    names = [f"train-00000{i}.tar" for i in range(4)] + ["val-000000.tar", "val-000001.tar"]
    assert shards(out) == names
    files = sources(out)
    val = {file for key, file in files.items() if key.startswith("val-")}
    train = {file for key, file in files.items() if key.startswith("train-")}
    assert len(val) == 3 and len(train) == 7 and not val & train
    assert len(build_manifest([f"{out}/val-*.tar"])) == 3


@pytest.mark.parametrize("val_fraction", [0.01, 0.99])
def test_split_without_images_is_refused(classes, tmp_path, val_fraction):
    assert "of 10 images" in refused(classes, tmp_path / "out", val_fraction=val_fraction)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_shards_are_limited_by_bytes(classes, tmp_path):
    out = tmp_path / "out"
    pack_folder(classes, out, shard_bytes=6000)
    sizes = [(out / name).stat().st_size for name in shards(out)]
    assert len(sizes) > 2 and max(sizes) <= 6000 + 10240  # a tar ends on a full record
    assert len(build_manifest([f"{out}/*.tar"])) == 10
    pack_folder(classes, tmp_path / "single", shard_bytes=1)
    assert len(shards(tmp_path / "single")) == 10


def test_labels_are_ignored_on_request(classes, tmp_path):
    pack_folder(classes, tmp_path / "out", labels=False)
    assert set(build_manifest([f"{tmp_path}/out/*.tar"]).label.tolist()) == {NO_LABEL}
    assert not (tmp_path / "out" / "classes.txt").exists()


def test_images_are_resized(tmp_path, save):
    for number in range(6):
        save(f"{number}.{'png' if number % 2 else 'jpg'}", number, (90, 120))
    out = tmp_path / "out"
    packed = pack_folder(tmp_path / "images", out, resize=32)
    manifest = build_manifest([f"{out}/*.tar"])
    files = sources(out)
    for sample in range(6):
        extension = Path(files[manifest.key(sample)]).suffix[1:]
        image = decode_native(ShardReader(manifest).read(sample), extension)
        assert image.shape == (3, 32, 43)
    assert packed.short_side == (32, 32, 32) and packed.bytes_out < packed.bytes_in
    assert packed.pixel_cost is not None and 0 < packed.pixel_cost < 5
    assert any("of 255 on average" in line for line in summary_lines(packed))


# Bad images


@pytest.fixture
def jpeg(save):
    return save("good.jpg", 1, (64, 96)).read_bytes()


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("truncated.jpg", lambda data: data[:-100], "truncated"),
        ("half.jpg", lambda data: data[: len(data) // 2] + bytes(len(data) // 2), "zero bytes"),
        ("empty.jpg", lambda data: b"", "does not decode"),
        ("page.png", lambda data: b"<html></html>", "does not decode"),
        ("noise.webp", lambda data: b"RIFF" + bytes(60), "does not decode"),
        ("pickle.npy", lambda data: b"\x80\x04.", "does not decode"),
    ],
)
def test_damaged_image_is_skipped_and_named(tmp_path, jpeg, name, damage, reason):
    folder = tmp_path / "images"
    (folder / name).write_bytes(damage(jpeg))
    packed = pack_folder(folder, tmp_path / "out")
    ((skipped, why),) = packed.skipped
    assert packed.splits == {"train": 1} and skipped == name and reason in why
    assert summary_lines(packed)[0] == f"skipped {name}: {why}"
    assert list(sources(tmp_path / "out").values()) == ["good.jpg"]


def test_wrong_extension_is_accepted(tmp_path, jpeg):
    (tmp_path / "images" / "good.jpg").rename(tmp_path / "images" / "good.png")
    assert pack_folder(tmp_path / "images", tmp_path / "out").splits == {"train": 1}
    manifest = build_manifest([f"{tmp_path}/out/*.tar"])
    assert decode_native(ShardReader(manifest).read(0), "png").shape == (3, 64, 96)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read anything")
def test_file_without_permission_is_skipped(tmp_path, jpeg):
    (tmp_path / "images" / "mine.jpg").write_bytes(jpeg)
    (tmp_path / "images" / "mine.jpg").chmod(0)
    packed = pack_folder(tmp_path / "images", tmp_path / "out")
    assert packed.skipped == (("mine.jpg", "cannot be read: Permission denied"),)


def test_decompression_bombs_are_skipped(tmp_path, save, monkeypatch):
    save("a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    message = refused(tmp_path / "images", tmp_path / "out")
    assert "no images: none of 1 for train is usable, first a.jpg: " in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_shard_without_a_usable_image_is_not_written(tmp_path, save):
    for number in range(4):
        save(f"{number}.jpg", number)
    pack_folder(tmp_path / "images", tmp_path / "whole", shard_size=1)
    third = sources(tmp_path / "whole")["train-000000002"]
    (tmp_path / "images" / third).write_bytes(b"")
    packed = pack_folder(tmp_path / "images", tmp_path / "out", shard_size=1)
    assert packed.shards == {"train": 3}
    assert shards(tmp_path / "out") == [f"train-00000{i}.tar" for i in (0, 1, 3)]


def test_sixteen_bits_are_suggested(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 65536, (20, 24)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    packed = pack_folder(tmp_path / "images", tmp_path / "out")
    assert (packed.channels, packed.bits) == ({1: 3}, {16: 3})
    assert summary_lines(packed)[-1].endswith(": data.bits=16 data.in_chans=1")


def test_constant_images_are_counted_and_cost_is_told_in_deviations(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 4096, (40, 48)).astype(np.uint16)
        Image.fromarray(pixels * (number > 0)).save(tmp_path / "images" / f"{number}.png")
    packed = pack_folder(tmp_path / "images", tmp_path / "out", resize=20)
    assert packed.constant == 1 and packed.constant_images == ("0.png",)
    assert packed.pixel_cost is not None and packed.relative_cost is not None
    # 12 bits: of 255 levels it is little, of the 16 that are used more.
    assert 0 < 10 * packed.pixel_cost / 255 < packed.relative_cost < 1
    text = "\n".join(summary_lines(packed))
    assert "1 image has the same value in all pixels" in text and "first 0.png" in text
    assert "of the images' standard deviation" in text


def test_images_of_fewer_bits_than_most_are_named(tmp_path, save):
    save("screenshot.png", 9)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 4096, (20, 24)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    packed = pack_folder(tmp_path / "images", tmp_path / "out")
    *_, line, name = summary_lines(packed)
    assert line.startswith("1 image has fewer than 16 bits") and "--exclude" in line
    assert name == "  screenshot.png"


@pytest.mark.parametrize(
    ("usual", "settings"),
    [((3, 8), ""), ((4, 8), "data.in_chans=4"), ((3, 16), "data.bits=16")],
)
def test_settings_are_suggested_where_the_defaults_do_not_fit(usual, settings):
    assert suggested_settings(*usual) == settings


@pytest.mark.parametrize(
    ("count", "line"),
    [
        (1, "1 image of 16 bits is skipped in training unless data.bits=16"),
        (2, "2 images of 16 bits are skipped in training unless data.bits=16"),
    ],
)
def test_suggestion_follows_most_images(tmp_path, save, count, line):
    for number in range(3):
        save(f"{number}.jpg", number)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 65536, (20, 24)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / "images" / f"deep-{number}.png")
    packed = pack_folder(tmp_path / "images", tmp_path / "out")
    assert packed.usual == (3, 8)
    assert summary_lines(packed)[-1] == line


def test_images_of_other_channels_are_counted(tmp_path, save, capsys):
    """They count neither in training nor in the statistics."""
    for number in range(3):
        save(f"{number}.png", number)
    Image.fromarray(np.eye(24, dtype=np.uint8) * 200).save(tmp_path / "images" / "gray.png")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 6)).astype(np.uint8)
        np.save(tmp_path / "images" / f"deep-{number}.npy", pixels)
    words = ["pack", str(tmp_path / "images"), str(tmp_path / "out"), "--workers=0"]
    assert mae(words) == 0
    printed = capsys.readouterr().out
    assert "2 images are skipped in training with data.in_chans=3: of other channels" in printed
    assert "3 x 8 bits; of 4 images:" in printed
    assert "2 more could not be read as 3 x 8 bits and are skipped" in printed


@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("RGBA", 3)])
def test_alpha_is_not_counted_as_a_channel(tmp_path, save, mode, channels):
    for number in range(3):
        path = save(f"{number}.png", number)
        Image.open(path).convert(mode).save(path)
    packed = pack_folder(tmp_path / "images", tmp_path / "out", resize=10)
    assert packed.channels == {channels: 3} and packed.usual == (channels, 8)
    assert suggested_settings(*packed.usual) == ("data.in_chans=1" if channels == 1 else "")


@pytest.mark.parametrize("shape", [(64, 64, 224), (8, 8, 20)])
def test_arrays_with_ambiguous_axes_are_skipped_by_name(tmp_path, save, shape):
    save("good.jpg", 1)
    np.save(tmp_path / "images" / "cube.npy", np.zeros(shape, np.uint8))
    packed = pack_folder(tmp_path / "images", tmp_path / "out", resize=6)
    ((name, reason),) = packed.skipped
    assert name == "cube.npy" and reason.startswith(f"shape {list(shape)}: its first and its last")


@pytest.mark.parametrize("workers", [0, 2])
def test_internal_error_names_the_file(tmp_path, save, monkeypatch, workers):
    def fail(source, resize, quality):
        raise RuntimeError("out of range")

    save("a.jpg", 1)
    monkeypatch.setattr("mae.pack.shard_writer.recode", fail)
    with pytest.raises(RunFailed) as error:
        pack_folder(tmp_path / "images", tmp_path / "out", workers=workers)
    assert str(error.value) == f"{tmp_path}/images: a.jpg: RuntimeError: out of range"


def test_file_names_outside_of_utf8_and_with_control_characters(tmp_path, save):
    save("tab\t.jpg", 1), save("line\nend.jpg", 2), save("back\\slash.jpg", 3)
    directory = os.fsencode(save("a.jpg").parent)
    try:
        os.rename(directory + b"/a.jpg", directory + b"/\xff.jpg")  # noqa: PTH104
    except OSError:
        pytest.skip("this file system wants UTF-8")
    (tmp_path / "images" / "bad\n.jpg").touch()
    packed = pack_folder(tmp_path / "images", tmp_path / "out")
    rows = (tmp_path / "out" / "sources.tsv").read_bytes().split(b"\n")[1:-1]
    names = {row.split(b"\t")[1] for row in rows}
    assert names == {b"\xff.jpg", b"tab\\t.jpg", b"line\\nend.jpg", b"back\\\\slash.jpg"}
    assert packed.skipped[0][0] == "bad\\n.jpg"
    json.loads((tmp_path / "out" / "pack.json").read_text())


def test_deleted_image_is_named(classes, tmp_path):
    def delete_all(done, total):
        for path in classes.rglob("*.*"):
            path.unlink(missing_ok=True)

    with pytest.raises(StorageError, match=f"{classes}/.*: cannot be read: No such file"):
        pack_folder(classes, tmp_path / "out", shard_size=2, progress=delete_all)
    assert not (tmp_path / "out").exists()


def test_changed_image_is_named(classes, tmp_path):
    def change(done, total):
        for path in classes.rglob("*.*"):
            path.write_bytes(path.read_bytes() + b"more")

    message = refused(classes, tmp_path / "out", shard_size=2, progress=change)
    assert message.endswith(": changed during packing")


# Duplicates


@pytest.fixture
def copies(tmp_path, save):
    """Twenty images, of which one is there three times, once with another label."""
    for number in range(20):
        save(f"cat/{number:02}.jpg", number, (64, 64))
    save("dog/other.jpg", 50, (64, 64))
    shutil.copy(tmp_path / "images/cat/05.jpg", tmp_path / "images/cat/x.jpg")
    shutil.copy(tmp_path / "images/cat/05.jpg", tmp_path / "images/dog/y.jpg")
    return tmp_path / "images"


def test_exact_copies_are_reported(copies, tmp_path):
    packed = pack_folder(copies, tmp_path / "out")
    group = ("cat/05.jpg", "cat/x.jpg", "dog/y.jpg")
    assert packed.copies == pack_report.ExactDuplicates(2, 0, 1, 0, (group,))
    lines = "\n".join(summary_lines(packed))
    assert "2 exact copies (--drop-duplicates skips them)" in lines
    assert "1 group of exact copies with different labels" in lines


def test_exact_copies_across_splits_are_reported(copies, tmp_path):
    across = set()
    for seed in range(6):
        out = tmp_path / f"out{seed}"
        packed = pack_folder(copies, out, val_fraction=0.5, seed=seed)
        splits = {key[:3] for key, file in sources(out).items() if file in packed.copies.groups[0]}
        assert packed.copies.across == (len(splits) > 1)
        across.add(packed.copies.across)
    assert across == {0, 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_exact_copies_are_dropped(copies, tmp_path, workers):
    for seed in range(2):
        out = tmp_path / f"out{seed}"
        packed = pack_folder(
            copies, out, val_fraction=0.3, drop_duplicates=True, seed=seed, workers=workers
        )
        names = set(sources(out).values())
        assert "cat/05.jpg" in names and not names & {"cat/x.jpg", "dog/y.jpg"}
        assert sum(packed.splits.values()) == 21
        assert packed.copies[:4] == (2, 2, 1, 0)
        assert not (out / "copies.npy").exists()


def test_near_duplicates_across_splits_are_reported(tmp_path, save, make_image):
    # Blobs alone would be stripes of one direction: noise of large grain is easier to distinguish.
    for number in range(8):
        grain = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
        image = Image.fromarray(grain).resize((96, 96), Image.Resampling.BICUBIC)
        save(f"{number}.png")
        image.save(tmp_path / "images" / f"{number}.png")
        if number == 3:
            image.resize((80, 80)).save(tmp_path / "images" / "again.jpg", quality=80)
    save("blank1.png"), save("blank2.jpg")
    for name in ("blank1.png", "blank2.jpg"):
        Image.new("RGB", (40, 40), "white").save(tmp_path / "images" / name)
    found = set()
    for seed in range(6):
        out = tmp_path / f"out{seed}"
        packed = pack_folder(tmp_path / "images", out, val_fraction=0.5, seed=seed)
        split = {file: key.split("-")[0] for key, file in sources(out).items()}
        apart = split["3.png"] != split["again.jpg"]
        assert packed.alike.images == apart
        if apart:
            ((ours, theirs, distance),) = packed.alike.pairs
            assert {ours, theirs} == {"3.png", "again.jpg"} and distance <= 3
            assert split[ours] == "train"
            (line,) = [one for one in summary_lines(packed) if "near duplicate" in one]
            assert "figures will be too good" in line and "(data.val=FOLDER)" in line
        found.add(apart)
    assert found == {False, True}


def test_few_large_shards_get_a_note(classes, tmp_path, monkeypatch):
    monkeypatch.setattr(pack_report, "MANY_BYTES", 1000)
    packed = pack_folder(classes, tmp_path / "out")
    assert packed.notes == ("1 training shard: data.order=lanes needs data.lanes no larger",)


# The folder written


def test_empty_output_folder_is_used(classes, tmp_path):
    (tmp_path / "out").mkdir()
    assert pack_folder(classes, tmp_path / "out").splits == {"train": 10}


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_existing_output_is_refused_and_unchanged(classes, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    else:
        out.write_text("mine")
    message = "is a file" if kind == "file" else "is not empty; nothing is overwritten"
    assert refused(classes, out).startswith(f"{out}: {message}")
    assert "write the name of a new folder" in refused(classes, out)
    assert (out / "mine.txt" if kind == "folder" else out).read_text() == "mine"


def test_output_that_cannot_be_written_is_named(classes, tmp_path):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    assert refused(classes, out) == f"{out}: cannot be written: Not a directory"


FULL = """\
import resource, sys
from mae.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (12000, resource.RLIM_INFINITY))
sys.exit(main(["pack", *sys.argv[1:], "--workers", "0", "--shard-size", "1"]))
"""


def test_full_disk_is_named_and_the_same_command_resumes(classes, save, tmp_path):
    """A limit on the size of files stands for the disk."""
    out = tmp_path / "out"
    save("dog/large.png", 11, (128, 128))
    words = [sys.executable, "-c", FULL, str(classes), str(out)]
    done = subprocess.run(words, capture_output=True, text=True)
    kept, line = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line == f"mae: {out}: cannot be written: File too large"
    assert kept == (
        f"{tmp_path}/.out.parts keeps the finished parts: run the same command again to resume"
    )
    assert not out.exists() and not list(tmp_path.glob(".out.parts/*.part"))
    assert pack_folder(classes, out, shard_size=1).splits == {"train": 11}


def test_output_inside_of_the_source(classes, tmp_path):
    assert pack_folder(classes, classes / "shards").splits == {"train": 10}
    packed = pack_folder(classes, classes / "again")
    assert packed.splits == {"train": 10} and packed.classes == ("cat", "dog")
    assert "1 folder has no images: shards" in packed.notes
    assert all(name.startswith("shards/") for name, _ in packed.skipped)


def test_files_found_are_accounted_for(tmp_path, save):
    for number, name in enumerate(("A.jpg", "a.jpg", "x.jpg", "x.jpeg", "x.png", "d.o.t/x.y.jpg")):
        save(name, number)
    folder = tmp_path / "images"
    shutil.copy(folder / "A.jpg", folder / "copy.jpg")
    (folder / "link.jpg").symlink_to("A.jpg")
    (folder / "broken.jpg").symlink_to("gone.jpg")
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").touch()
    save("out/1.jpg", 9)
    request = PackRequest((str(folder),), exclude=("out",))
    packed = pack(request, tmp_path / "packed", PackOptions(drop_duplicates=True))
    assert packed.splits == {"train": 6} and packed.copies.dropped == 2
    assert {name for name, _ in packed.skipped} == {"broken.jpg", "empty.jpg", "notes.txt"}
    counted = "6 packed, 2 exact copies, 3 skipped, 1 excluded by --include or --exclude"
    assert f"12 files found: {counted}" in summary_lines(packed)
    members = [name for _, name in sources(tmp_path / "packed").items()]
    assert len(set(members)) == 6 and {"A.jpg", "a.jpg", "x.jpg", "x.jpeg", "x.png"} < set(members)


def test_class_without_a_usable_image_is_named(classes, tmp_path):
    (classes / "fox").mkdir()
    (classes / "fox" / "1.jpg").write_bytes(b"no image")
    packed = pack_folder(classes, tmp_path / "out")
    assert packed.classes == ("cat", "dog", "fox")
    assert "no image of 1 of 3 classes: fox" in packed.notes
    shutil.rmtree(classes / "fox"), shutil.rmtree(classes / "dog")
    assert "one class only: cat" in pack_folder(classes, tmp_path / "one", True).notes


def test_output_needs_a_name(classes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "write the name of a new folder" in refused(classes, Path())


def test_refused_request_leaves_no_files(tmp_path):
    (tmp_path / "images").mkdir()
    assert "no images" in refused(tmp_path / "images", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_progress_is_reported(classes, tmp_path, every_part_shown):
    progress = []
    out = tmp_path / "out"
    pack_folder(classes, out, shard_size=4, progress=lambda *numbers: progress.append(numbers))
    assert progress == [(0, 10), (4, 10), (8, 10), (10, 10)]


# Interrupted


@pytest.fixture
def every_part_shown(monkeypatch):
    monkeypatch.setattr("mae.base.divided_work.LIST_SECONDS", 0.0)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_same_call_resumes_after_a_failure(
    classes, tmp_path, monkeypatch, failure, every_part_shown
):
    pack_folder(classes, tmp_path / "whole", shard_size=2)
    written, messages = [], []

    def write(writer, task):
        if len(written) == 2:
            (writer.temporary / f"{task.name}.9.part").write_bytes(b"half")
            (writer.shards / ".sources.tsv.9.part").write_bytes(b"half")
            (writer.shards / "train-000099.tar").write_bytes(b"without a usable image since")
            (writer.shards / ".mae-index" / ".train-000099.tar.9.part").touch()
            raise failure
        written.append(task.name)
        return write_shard(writer, task)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", write)
        with pytest.raises((UserError, KeyboardInterrupt)) as raised:
            pack_folder(classes, tmp_path / "out", shard_size=2, log=messages.append)
    parts = tmp_path / ".out.parts"
    assert messages == [f"{parts} keeps the finished parts: run the same command again to resume"]
    if isinstance(failure, OSError):
        assert re.match(f"{tmp_path}/out: cannot be written: .*No space", str(raised.value))
    assert not (tmp_path / "out").exists()

    progress = []
    pack_folder(
        classes,
        tmp_path / "out",
        shard_size=2,
        progress=lambda *numbers: progress.append(numbers),
        log=messages.append,
    )
    assert progress == [(4, 10), (6, 10), (8, 10), (10, 10)]
    assert messages[1:] == [f"{parts}: resuming, 2 parts are done"]
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out", "whole"]


def stop_after_a_shard(done, total):
    if done:
        raise KeyboardInterrupt


@pytest.mark.parametrize("change", ["options", "images", "labels"])
def test_other_images_or_options_start_over(classes, tmp_path, save, change, every_part_shown):
    with pytest.raises(KeyboardInterrupt):
        pack_folder(classes, tmp_path / "out", shard_size=2, progress=stop_after_a_shard)
    parts = tmp_path / ".out.parts"
    assert list(parts.glob("shards-*/train-000000.tar"))
    options, messages = {"shard_size": 2}, []
    if change == "options":
        options["seed"] = 1
    elif change == "labels":
        options["labels"] = False
    else:
        save("cat/1.jpg", 77)
    pack_folder(classes, tmp_path / "out", log=messages.append, **options)
    assert messages == [f"{parts}: holds parts of other data or options: starting over"]
    pack_folder(classes, tmp_path / "fresh", **options)
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_leftover_without_a_plan_is_replaced(classes, tmp_path):
    (tmp_path / ".out.parts" / "shards").mkdir(parents=True)
    (tmp_path / ".out.parts" / "shards" / "train-000009.tar").touch()
    pack_folder(classes, tmp_path / "out")
    assert shards(tmp_path / "out") == ["train-000000.tar"]


COMMAND = """
import sys, time
from pathlib import Path
from mae.pack.pack import pack
from mae.pack.shard_plan import PackOptions
from mae.pack.shard_writer import ShardWriter
from mae.pack.listing import PackRequest

write = ShardWriter.write
def slowly(writer, task):
    report = write(writer, task)
    time.sleep(0.1)
    return report
ShardWriter.write = slowly
pack(PackRequest((sys.argv[1],)), Path(sys.argv[2]), PackOptions(shard_size=2), workers=2)
"""


def test_killed_process_resumes_to_the_same_bytes(tmp_path, save):
    for number in range(40):
        save(f"{number}.jpg", number)
    folder, out = tmp_path / "images", tmp_path / "out"
    command = [sys.executable, "-c", COMMAND, str(folder), str(out)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 60
        while (
            len(list(tmp_path.glob(".out.parts/report-*[0-9]"))) < 3 and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = len(list(tmp_path.glob(".out.parts/report-*[0-9]")))
    assert 3 <= done < 20 and not out.exists()
    messages = []
    pack_folder(folder, out, shard_size=2, log=messages.append)
    assert re.fullmatch(rf"{tmp_path}/.out.parts: resuming, \d+ parts are done", messages[0])
    pack_folder(folder, tmp_path / "whole", shard_size=2)
    assert content(out) == content(tmp_path / "whole")


def test_killed_at_any_file_operation_it_resumes_to_the_same_bytes(copies, tmp_path):
    out, options = tmp_path / "out", {"shard_size": 9, "val_fraction": 0.3, "drop_duplicates": True}
    pack_folder(copies, tmp_path / "whole", **options)
    for number in itertools.count(3, 9):
        is_killed = killed_at(number, lambda: pack_folder(copies, out, **options))
        if out.exists():
            assert "is packed already" in refused(copies, out, **options)
        else:
            pack_folder(copies, out, **options)
        assert content(out) == content(tmp_path / "whole")
        assert {path.name for path in tmp_path.iterdir()} == {"images", "out", "whole"}
        shutil.rmtree(out)
        if not is_killed:
            break
    assert number > 60


def killed_at(number, work):
    """Do `work` in a process that is killed at one of its file operations; False: it has fewer."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        return status != 0
    left = itertools.count(number - 1, -1)

    def counted(operation):
        def do(*arguments, **options):
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return do

    try:
        for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync"):
            setattr(os, name, counted(getattr(os, name)))
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def test_killed_worker_is_named(classes, tmp_path, monkeypatch):
    def die(writer, task):
        if task.number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return write_shard(writer, task)

    monkeypatch.setattr(ShardWriter, "write", die)
    messages = []
    match = r"train-000003.tar: its worker process \d+ was killed by SIGKILL"
    with pytest.raises(WorkerDied, match=match):
        pack_folder(classes, tmp_path / "out", shard_size=2, workers=2, log=messages.append)
    assert messages[-1].endswith("keeps the finished parts: run the same command again to resume")
    monkeypatch.undo()
    assert pack_folder(classes, tmp_path / "out", shard_size=2).splits == {"train": 10}


def test_second_process_waits_and_is_refused(classes, tmp_path, monkeypatch):
    """It finds the output of the first."""
    out, messages = tmp_path / "out", []

    def finish_first(seconds):
        monkeypatch.undo()
        lock.close()
        pack_folder(classes, out)

    (tmp_path / ".out.parts").mkdir()
    with (tmp_path / ".out.parts" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr("mae.base.parts_folder.SILENT_SECONDS", 0.0)
        monkeypatch.setattr("mae.base.parts_folder.time.sleep", finish_first)
        assert refused(classes, out, log=messages.append) == (
            f"{out}: is packed already; nothing is overwritten: write the name of a new folder"
        )
    assert "waiting for another command" in messages[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]


# Several processes


def array(number, count):
    return Portion(number - 1, count, is_task=True)


JOIN = Portion(is_join=True)


@pytest.mark.parametrize("dropped", [False, True])
def test_tasks_of_a_job_array_in_any_order_write_what_one_process_does(copies, tmp_path, dropped):
    """Also with a task that is interrupted, and others of another number."""
    (copies / "cat" / "bad.jpg").write_bytes(b"no image")
    options = {"shard_size": 3, "val_fraction": 0.3, "drop_duplicates": dropped}
    out = tmp_path / "out"

    def task(portion):
        with pytest.raises(PartDone, match="run the same command with --join"):
            pack_folder(copies, out, portion=portion, **options)

    task(array(3, 3))
    with pytest.raises(UserError, match=r"with --part 1/3, --part 2/3, then --join again"):
        pack_folder(copies, out, portion=JOIN, **options)
    with pytest.raises(KeyboardInterrupt):
        pack_folder(copies, out, portion=array(1, 3), progress=stop_after_a_shard, **options)
    task(array(1, 2))
    task(array(2, 3))
    pack_folder(copies, out, portion=JOIN, **options)
    pack_folder(copies, tmp_path / "whole", **options)
    assert content(out) == content(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out", "whole"]
    for portion in (JOIN, array(1, 3)):
        assert "is packed already" in refused(copies, out, portion=portion, **options)


def test_images_that_change_between_tasks_are_refused(classes, tmp_path, save):
    with pytest.raises(PartDone):
        pack_folder(classes, tmp_path / "out", portion=array(1, 2))
    save("cat/1.jpg", 77)
    for portion in (array(2, 2), JOIN, ALONE):
        message = refused(classes, tmp_path / "out", portion=portion)
        assert message.startswith(f"{tmp_path}/.out.parts: holds parts of other data or options: ")


def test_missing_shard_is_named_and_written_again(classes, tmp_path, monkeypatch):
    monkeypatch.setattr("mae.base.parts_folder.SIGHT_SECONDS", 0.0)
    with pytest.raises(PartDone):
        pack_folder(classes, tmp_path / "out", shard_size=4, portion=array(1, 1))
    (shard,) = (tmp_path / ".out.parts").glob("shards-*/train-000001.tar")
    shard.unlink()
    with pytest.raises(RunFailed, match=r"train-000001.tar: is missing: run the same command"):
        pack_folder(classes, tmp_path / "out", shard_size=4, portion=JOIN)
    with pytest.raises(PartDone):
        pack_folder(classes, tmp_path / "out", shard_size=4, portion=array(1, 1))
    assert pack_folder(classes, tmp_path / "out", shard_size=4, portion=JOIN).splits["train"] == 10


def test_pack_killed_when_its_output_was_complete_leaves_nothing(classes, tmp_path):
    pack_folder(classes, tmp_path / "out")
    (tmp_path / ".out.parts").mkdir()
    (tmp_path / ".out.parts" / "report-000000").touch()
    assert "is packed already" in refused(classes, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]
