"""`mae compress` and `mae decompress`: images → files of codes → images."""

import base64
import json
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mae.cli import main
from mae.compression.compress import CompressRequest, write_files
from mae.compression.container import ENDING, Header, Kind, read_container
from mae.compression.sources import file_source
from mae.data.image_files import ImageFile
from mae.decoding.decode import decode_native
from mae.training.checkpoint.trained import load_pretrained
from tests.compression.codecs import codec_run, prior_run
from tests.runs import completed, forked


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Codecs that have learned nothing, by name."""
    folder = tmp_path_factory.mktemp("runs")
    found = {name: codec_run(folder / name, name) for name in ("vqvae", "vqvae2", "fsq")}
    found["gray16"] = codec_run(folder / "gray16", "fsq", 1, 16)
    found["five16"] = codec_run(folder / "five16", "fsq", 5, 16)
    found["vit"] = codec_run(folder / "vit", "vqvae", backbone="vit")
    found["causal"] = prior_run(folder / "causal", found["vqvae2"])
    found["masked"] = prior_run(folder / "masked", found["vqvae"], "masked")
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory, make_image):
    """Image files of several kinds and sizes."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    for number, size in enumerate(((16, 16), (16, 16), (20, 33), (5, 40))):
        Image.fromarray(make_image(number, size)).save(folder / f"{number}.png")
    Image.fromarray(make_image(7, (24, 16), 1)).save(folder / "deep" / "gray.jpg")
    opaque = np.dstack([make_image(8, (16, 20)), np.full((16, 20), 255, np.uint8)])
    Image.fromarray(opaque).save(folder / "deep" / "opaque.bmp.png")
    return folder


NAMES = ["0.png", "1.png", "2.png", "3.png", "deep/gray.jpg.png", "deep/opaque.bmp.png"]


def compress(run, images, out, *options):
    words = ["compress", run, *(images if isinstance(images, list) else [images]), "--out", out]
    return main([str(word) for word in (*words, *options)])


def decompress(files, run, out, *options):
    words = ["decompress", files, "--with", run, "--out", out, *options]
    return main([str(word) for word in words])


def pixels_of(folder):
    return {
        path.relative_to(folder).as_posix(): decode_native(path.read_bytes(), path.suffix[1:])
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["vqvae", "vqvae2", "fsq", "vit", "causal", "masked"])
@pytest.mark.parametrize("together", [False, True])
def test_files_come_back_with_their_names_sizes_and_channels(
    name, together, runs, photos, tmp_path, capsys
):
    tables = [] if name in ("causal", "masked") else ["--tables", photos]
    tables += ["--together"] if together else []
    assert compress(runs[name], photos, tmp_path / "c", *tables) == 0
    printed = capsys.readouterr().out
    assert "bits per pixel" in printed and "6 images in" in printed
    report = json.loads((tmp_path / "c.json").read_text())
    assert report["payload"] <= report["ideal"] + 2 * report["files"]
    files = [path for path in (tmp_path / "c").rglob(f"*{ENDING}")]
    assert len(files) == (1 if together else 6) == report["files"]
    assert report["total"] == sum(path.stat().st_size for path in files)
    assert decompress(tmp_path / "c", runs[name], tmp_path / "d") == 0
    made = pixels_of(tmp_path / "d" / "images" if together else tmp_path / "d")
    assert list(made) == NAMES
    for own, one in made.items():
        source = photos / own.removesuffix(".png") if "jpg" in own else photos / own
        size = decode_native(source.read_bytes(), source.suffix[1:]).shape[1:]
        assert one.shape == (1 if "gray" in own else 3, *size) and one.dtype == torch.uint8
    _, objective, _ = load_pretrained(runs[name])
    image = decode_native((photos / "0.png").read_bytes(), "png")[None]
    coding = getattr(objective, "coding")()  # noqa: B009
    with torch.no_grad():
        expected = (coding.decode(coding.encode(image))[0] * 255).round()
    assert (made["0.png"].float() - expected).abs().max() <= 1


@pytest.mark.parametrize(("name", "channels"), [("gray16", 1), ("five16", 5)])
def test_sixteen_bits_and_many_channels(name, channels, runs, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (20, 18, channels)).astype(np.uint16)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(
        tmp_path / "in/a.tif",
        values.squeeze(),
        photometric="minisblack",
        metadata=None,
        planarconfig="contig" if channels > 1 else None,
    )
    np.save(tmp_path / "in/b.npy", values)
    assert compress(runs[name], tmp_path / "in", tmp_path / "c", "--tables", tmp_path / "in") == 0
    assert decompress(tmp_path / "c", runs[name], tmp_path / "d") == 0
    made = pixels_of(tmp_path / "d")
    assert list(made) == ["a.tif", "b.npy.tif" if channels > 4 else "b.npy.png"]
    assert all(one.shape == (channels, 20, 18) for one in made.values())
    assert all(one.dtype == torch.uint16 for one in made.values())


def test_shards_become_a_file_each_near_the_entropy(runs, make_shards, tmp_path, capsys):
    shards = make_shards(tmp_path / "in", 150, shard_size=100, size=16, extension="png")
    words = ("--tables", shards)
    assert compress(runs["vqvae2"], shards, tmp_path / "c", *words) == 0
    report = json.loads((tmp_path / "c.json").read_text())
    assert 0 <= report["payload_over_entropy"] < 0.02 and report["images"] == 150
    names = ["shard-000000.tar.maec", "shard-000001.tar.maec"]
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["codes.maet", *names]
    assert decompress(tmp_path / "c" / names[1], runs["vqvae2"], tmp_path / "d") == 0
    made = sorted(path.relative_to(tmp_path / "d") for path in (tmp_path / "d").rglob("*.png"))
    assert len(made) == 50 and made[0].as_posix() == "shard-000001/sample-00100.png"


def test_another_number_of_threads_gives_the_same_codes(runs, photos, tmp_path, in_process):
    """In fresh processes; by tables also from an export, which has been imported again."""
    for name in ("vqvae", "causal", "masked"):
        options = ["--tables", photos] if name == "vqvae" else []
        assert compress(runs[name], photos, tmp_path / f"{name}-c", *options) == 0
        assert decompress(tmp_path / f"{name}-c", runs[name], tmp_path / f"{name}-one") == 0
    export = tmp_path / "export"
    words = ["export", str(runs["vqvae"]), str(export), "--format", "plain", "--images", "noise"]
    assert main(words) == 0
    program = "import sys, torch\nfrom mae.cli import main\ntorch.set_num_threads(3)\n" + "".join(
        f"assert main(['decompress', {str(tmp_path / f'{name}-c')!r}, '--with', {str(run)!r}, "
        f"'--out', {str(tmp_path / f'{name}-two')!r}]) == 0\n"
        for name, run in {**runs, "vqvae": export}.items()
        if name in ("vqvae", "causal", "masked")
    )
    done = completed([sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr
    for name in ("vqvae", "causal", "masked"):
        one, two = (pixels_of(tmp_path / f"{name}-{which}") for which in ("one", "two"))
        assert list(one) == list(two)
        for key in one:
            assert (one[key].int() - two[key].int()).abs().max() <= 1


@pytest.fixture(scope="module")
def compressed(runs, photos, tmp_path_factory):
    """Folder of compressed files of the run `vqvae`."""
    folder = tmp_path_factory.mktemp("compressed") / "c"
    assert compress(runs["vqvae"], photos, folder, "--tables", photos) == 0
    return folder


def test_files_that_do_not_fit_are_refused_in_one_line(runs, compressed, photos, tmp_path, capsys):
    whole = (compressed / "0.png.maec").read_bytes()
    (tmp_path / "cut.maec").write_bytes(whole[:-9])
    (tmp_path / "flipped.maec").write_bytes(whole[:30] + bytes([whole[30] ^ 4]) + whole[31:])
    (tmp_path / "newer.maec").write_bytes(whole[:4] + b"\2" + whole[5:])
    (tmp_path / "alone.maec").write_bytes(whole)
    (tmp_path / "other.maec").write_text("<html>404</html>")
    capsys.readouterr()
    for source, run, words in (
        (tmp_path / "cut.maec", "vqvae", "cut.maec: is damaged, or cut off"),
        (tmp_path / "flipped.maec", "vqvae", "flipped.maec: is damaged, or cut off"),
        (tmp_path / "newer.maec", "vqvae", "newer.maec: is of version 2; this version of mae"),
        (tmp_path / "other.maec", "vqvae", "holds no compressed images"),
        (tmp_path / "alone.maec", "vqvae", "are not beside it, nor in a folder above: name the"),
        (compressed / "0.png.maec", "vqvae2", "was made with another model"),
        (tmp_path / "absent.maec", "vqvae", "no such file or folder"),
        (photos, "vqvae", "no compressed images in this folder"),
    ):
        assert decompress(source, runs[run], tmp_path / "d") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line and not (tmp_path / "d").exists()
    assert compress(runs["vqvae"], photos, compressed, "--tables", photos) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert (
        compress(runs["vqvae2"], photos, tmp_path / "e", "--tables", compressed / "codes.maet") == 2
    )
    assert "tables of another model" in capsys.readouterr().err
    assert compress(runs["vqvae"], photos, tmp_path / "e") == 2  # trained on nothing
    assert "--tables SHARDS gives others" in capsys.readouterr().err
    assert main(["compress", str(runs["vqvae"]), str(photos)]) == 2
    assert "neither --out DIR nor --report FILE" in capsys.readouterr().err
    for ending in (".html", ".png", ".json"):
        report = ["--tables", photos, "--report", f"{tmp_path}/../{tmp_path.name}/f{ending}"]
        assert compress(runs["vqvae"], photos, tmp_path / "f", *report) == 2
        assert "would replace" in capsys.readouterr().err
        assert not (tmp_path / "f").exists() and not (tmp_path / "f.json").exists()


def test_codes_of_other_probabilities_are_never_written(
    runs, photos, tmp_path, monkeypatch, capsys
):
    """As on another build of torch: the checksum of the codes decides."""
    assert compress(runs["causal"], photos / "0.png", tmp_path / "c") == 0
    build = read_container(tmp_path / "c/0.png.maec").content.header.build
    assert build.startswith("torch ") and "1 thread" in build
    capsys.readouterr()
    monkeypatch.setattr("mae.compression.decompress.this_build", lambda: "torch 9")
    monkeypatch.setattr(
        "mae.compression.code_models.as_frequencies",
        lambda values: torch.full_like(values, 2**24 // values.shape[2], dtype=torch.int64).numpy(),
    )
    assert decompress(tmp_path / "c", runs["causal"], tmp_path / "d") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"it was made by {build}; this is torch 9" in line and not (tmp_path / "d").exists()


def test_one_file_of_many_images_needs_the_memory_of_a_block(photos, tmp_path):
    source = file_source([ImageFile(photos / "0.png", f"{n}.png") for n in range(24)], True)
    kind, size = Kind(16, 16, 3, 8), 1 << 20

    def rows():
        for number in range(24):
            payload = base64.b64encode(bytes([number]) * size).decode()
            yield {"images": [number], "kinds": [kind], "payload": payload, "crc": 0, "bits": 8.0}

    no_codec: Any = None  # files are written of codes
    header = Header(bytes(8), bytes(8), "", 3, 8, (0, 0))
    request = CompressRequest(no_codec, source, tmp_path / "c", None)
    tracemalloc.start()
    try:
        found = write_files(request, header, None, rows())
        assert tracemalloc.get_traced_memory()[1] < 12 * size
    finally:
        tracemalloc.stop()
    (file,) = (tmp_path / "c").iterdir()
    assert found.payload == 24 * size and found.total == file.stat().st_size and found.ideal == 24
    stored = read_container(file)
    assert stored.content.names[23] == "23.png"
    assert [stored.block(one).payload[5] for one in stored.places()] == list(range(24))


def test_bad_images_are_named_and_counted(runs, photos, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.png").write_bytes(b"nothing")
    Image.new("RGBA", (16, 16), (1, 2, 3, 4)).save(tmp_path / "in/glass.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "in/good.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "in/hole.png", transparency=(0, 0, 0))
    words = (runs["fsq"], tmp_path / "in", tmp_path / "c", "--tables", photos, "--max-bad")
    assert compress(*words, 2) == 2
    error = capsys.readouterr().err
    assert "3 images cannot be compressed, more than --max-bad 2, first bad.png" in error
    assert not (tmp_path / "c").exists()
    assert compress(*words, 3) == 0
    printed = capsys.readouterr()
    for name in ("glass", "hole"):
        assert f"{name}.png: has transparent pixels" in printed.out
    assert "resuming" in printed.err
    assert compress(runs["gray16"], photos / "0.png", tmp_path / "d", "--tables", photos) == 2
    assert "has 3 channels, the model 1" in capsys.readouterr().err


@pytest.mark.fault
def test_two_processes_write_what_one_writes_also_after_a_kill(runs, photos, tmp_path, make_shards):
    shards = make_shards(tmp_path / "in", 130, shard_size=70, size=16, extension="png")
    words = ["compress", str(runs["vqvae"]), shards, "--tables", shards, "--out"]
    assert main([*words, str(tmp_path / "one")]) == 0
    two = [*words, str(tmp_path / "two")]
    done = completed(forked("tests.killed", "1", "mae", *two, "--then", "mae", *two))
    assert done.returncode == 0 and "resuming" in done.stderr, done.stderr
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert (tmp_path / "one.json").read_text() == (tmp_path / "two.json").read_text()


def test_the_report_compares_on_the_same_images(runs, photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "r.html"
    (tmp_path / "bad.png").write_bytes(b"nothing")
    Image.new("RGB", (32, 32)).save(tmp_path / "large.png")
    words = ["compress", runs["causal"], photos / "0.png", photos / "1.png", tmp_path / "bad.png"]
    words += ["--tables", photos]
    assert main([str(word) for word in (*words, "--report", out, "--max-bad", 0)]) == 2
    assert "1 image cannot be compressed, more than --max-bad 0, first" in capsys.readouterr().err
    assert not out.exists()
    assert main([str(word) for word in (*words, "--report", out, "--max-bad", 1)]) == 0
    printed = capsys.readouterr().out
    assert "skipped: bad.png: does not decode" in printed
    assert "this run, prior" in printed and "PCA coder" in printed
    page, report = out.read_text(), json.loads(out.with_suffix(".json").read_text())
    assert page.count("<svg") == 2 and "data:image/png" in page
    assert "<li>" in page and page.index("data:image/png") < page.index("<table")
    assert set(report["own"]) == {"prior", "tables", "no entropy coding"}
    assert {"JPEG", "PCA coder"} <= set(report["others"])
    assert [one["image"] for one in report["skipped"]] == ["bad.png"]
    assert any("1 skipped: bad.png (does not decode" in note for note in report["notes"])
    own = {name: points[0] for name, points in report["own"].items()}
    assert len({one["psnr"] for one in own.values()}) == 1
    assert own["no entropy coding"]["bits_per_pixel"] == 4 * 20 / 256
    assert main([str(word) for word in (*words, "--report", tmp_path / "r.txt")]) == 2
    assert "must end in .html, .png, .json" in capsys.readouterr().err
    monkeypatch.setattr("mae.compression.coding.LARGEST_WHOLE", 900)
    words = ["compress", runs["fsq"], tmp_path / "large.png", "--tables", photos, "--report", out]
    assert main([str(word) for word in words]) == 2
    assert "large.png: 32 x 32 pixels are too many to code whole" in capsys.readouterr().err
    words = ["compress", runs["fsq"], photos / "0.png", "--out", tmp_path / "o"]
    words += ["--tables", tmp_path / "large.png"]
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert "1 image is not readable" in error and "no image to measure tables of codes" in error
