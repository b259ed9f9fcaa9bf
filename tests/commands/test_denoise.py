"""`mae denoise` of files, folders and shards."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from mae.base.errors import UserError
from mae.cli import main
from mae.data.tar_members import walk
from mae.decoding.decode import decode, decode_native
from mae.objectives.noise2void.model import Denoiser
from mae.training.checkpoint.trained import load_pretrained
from tests.objectives.autoencoders.small import small_config
from tests.runs import completed, forked
from tests.untrained import untrained_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Denoisers that have learned nothing, by objective and channels."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        (name, channels): untrained_run(
            folder / f"{name}{channels}", small_config(name, channels, 16)
        )
        for name, channels in (("dae", 3), ("noise2void", 1))
    }


def noisy(shape, dtype=np.uint16):
    white = np.iinfo(dtype).max
    values = np.random.default_rng(1).normal(0.5, 0.05, shape) * white
    return values.round().clip(0, white).astype(dtype)


def png(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def test_files_keep_names_depth_and_channels(runs, tmp_path, capsys):
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "gray.png").write_bytes(png(noisy((40, 50))))
    (source / "colour.png").write_bytes(png(noisy((40, 50, 4), np.uint8)))
    Image.fromarray(noisy((40, 50, 3), np.uint8)).save(source / "photo.jpg")
    (source / "two.npy").write_bytes(b"nothing")
    out = tmp_path / "out"
    assert main(["denoise", str(runs["dae", 3]), str(source), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "skipped: two.npy" in said.err and "3 images, 1 skipped" in said.out
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == ["colour.png", "deep/gray.png", "photo.jpg.png"]
    for name, dtype, channels in (
        ("colour.png", torch.uint8, 4),
        ("deep/gray.png", torch.uint16, 1),
        ("photo.jpg.png", torch.uint8, 3),
    ):
        made = decode_native((out / name).read_bytes(), "png")
        assert made.dtype == dtype and made.shape == (channels, 40, 50)
    before, after = (
        decode_native((folder / "colour.png").read_bytes(), "png") for folder in (source, out)
    )
    assert torch.equal(before[3], after[3]) and not torch.equal(before[:3], after[:3])
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["denoised"] == 3 and len(report["images"]) == 4
    assert report["medians"]["noise_std"] == pytest.approx(0.05, rel=0.3)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 300
    assert not list(tmp_path.glob("*.parts"))


@torch.no_grad()
def test_shards_keep_keys_and_the_other_members(runs, tmp_path):
    shards = tmp_path / "in"
    shards.mkdir()
    shard = shards / "a: b.tar"
    with tarfile.open(shard, "w") as tar:
        for name, data in (
            ("1.png", png(noisy((20, 20)))),
            ("1.cls", b"2"),
            ("2.png", png(noisy((24, 20)))[:-30]),
            ("2.cls", b"0"),
            ("3.png", png(noisy((20, 28), np.uint8))),
            ("3.json", b"{}"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    out, run = tmp_path / "out", runs["noise2void", 1]
    assert main(["denoise", str(run), str(shard), "--out", str(out)]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["images"]
    assert [(row.get("shard"), row.get("written")) for row in rows] == [
        ("a: b.tar", "1.png"),
        (None, None),
        ("a: b.tar", "3.png"),
    ]
    members = {member.name: member for member in walk(out / "a: b.tar")}
    assert list(members) == ["1.png", "1.cls", "2.cls", "3.png", "3.json"]
    content = (out / "a: b.tar").read_bytes()
    data = {name: content[one.offset : one.offset + one.size] for name, one in members.items()}
    assert data["1.cls"] == b"2" and data["3.json"] == b"{}"
    _, denoiser, _ = load_pretrained(run)
    assert isinstance(denoiser, Denoiser)
    given = decode(png(noisy((20, 20))), "png", 1, 16)
    expected = (denoiser.denoise(given[None])[0] * 65535).round()
    assert torch.equal(decode(data["1.png"], "png", 1, 16).float(), expected)
    assert decode_native(data["3.png"], "png").dtype == torch.uint8


@pytest.mark.parametrize(
    ("source", "run", "words"),
    [
        ("rgb.png", "noise2void", "has 3 channels, the denoiser 1"),
        ("lossy.jpg", "noise2void", "compressed with loss"),
        ("none.png", "dae", "no such file or folder"),
        ("gray.png", "vae", "objective vae has no denoised images; mae denoise needs them"),
    ],
)
def test_what_cannot_be_denoised_is_refused_in_one_line(source, run, words, runs, tmp_path, capsys):
    Image.fromarray(noisy((20, 20, 3), np.uint8)).save(tmp_path / "rgb.png")
    Image.fromarray(noisy((20, 20), np.uint8)).save(tmp_path / "lossy.jpg")
    (tmp_path / "gray.png").write_bytes(png(noisy((20, 20))))
    folder = runs.get((run, 1)) or runs.get((run, 3))
    folder = folder or untrained_run(tmp_path / "vae", small_config("vae", 1, 16))
    out = tmp_path / "out"
    assert main(["denoise", str(folder), str(tmp_path / source), "--out", str(out)]) == 2
    assert words in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("out", [".", "/", ".."])
def test_folders_without_a_name_are_refused_in_one_line(out, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png(noisy((20, 20, 3), np.uint8)))
    assert main(["denoise", str(runs["dae", 3]), "a.png", "--out", out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{out}: write the name of a new folder" in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_results_of_one_name_are_refused(runs, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(noisy((20, 20, 3), np.uint8)).save(source / "a.jpg")
    Image.fromarray(noisy((20, 20, 3), np.uint8)).save(source / "a.jpg.png")
    words = ["denoise", str(runs["dae", 3]), str(source), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "results of both may be named a.jpg.png" in capsys.readouterr().err


def test_an_error_after_the_work_loses_nothing(runs, tmp_path, monkeypatch):
    """Reports are written while all can still be done again."""
    (tmp_path / "gray.png").write_bytes(png(noisy((20, 20))))
    words = ["denoise", str(runs["dae", 3]), str(tmp_path / "gray.png"), "--out"]

    def fail(*_):
        raise UserError("disk full")

    monkeypatch.setattr("mae.base.files.write_json", fail)
    assert main([*words, str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    left = tmp_path / ".out.parts" / "files" / ".gray.png.00000000.part"
    left.write_bytes(b"half")  # of a killed process
    monkeypatch.undo()
    monkeypatch.setattr("mae.evaluation.denoising.denoise_file", fail)  # not called any more
    assert main([*words, str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["gray.png"]


def test_an_empty_folder_stays_where_nothing_can_be_denoised(runs, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    (tmp_path / "out").mkdir()
    words = ["denoise", str(runs["dae", 3]), str(tmp_path / "bad.png"), "--out"]
    assert main([*words, str(tmp_path / "out")]) == 2
    assert "none of 1 images can be denoised, first bad.png" in capsys.readouterr().err


def test_nothing_is_overwritten(runs, tmp_path, capsys):
    (tmp_path / "gray.png").write_bytes(png(noisy((20, 20))))
    words = ["denoise", str(runs["dae", 3]), str(tmp_path / "gray.png"), "--out"]
    assert main([*words, str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_two_processes_write_what_one_writes(runs, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.png").write_bytes(png(noisy((20, 20 + number))))
    words = ["denoise", str(runs["dae", 3]), str(source), "--out"]
    assert main([*words, str(tmp_path / "one")]) == 0
    two = [*words, str(tmp_path / "two")]
    done = completed(forked("tests.killed", "1", "mae", *two, "--then", "mae", *two))
    assert done.returncode == 0 and "resuming" in done.stderr, done.stderr
    for number in range(4):
        assert (tmp_path / f"one/{number}.png").read_bytes() == (
            tmp_path / f"two/{number}.png"
        ).read_bytes()
    one, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one == other
