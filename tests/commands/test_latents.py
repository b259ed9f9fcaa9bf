"""`mae latents`: shards of latents for other models."""

import contextlib
import errno
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from mae.base.errors import Stopped
from mae.cli import main
from mae.config.sections import Config
from mae.data.indexing import build_manifest
from mae.data.manifest_file import open_manifest
from mae.data.opening import open_images
from mae.data.shard_reader import ShardReader
from mae.data.views import CentredViews
from mae.training.checkpoint.trained import load_pretrained
from tests.killed import stopped_after
from tests.objectives.autoencoders.small import small_config
from tests.runs import completed, forked
from tests.untrained import untrained_run

# webdataset leaves its shards to be closed by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored")
LDM = {"stages": 2, "depth": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A kl that has learned nothing: 16 px, latents [4 4 4]."""
    config = small_config("kl", 3, **LDM)
    return untrained_run(tmp_path_factory.mktemp("kl") / "run", config)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    """Two labelled shards of ten images and one of two, with names of classes."""
    folder = tmp_path_factory.mktemp("images")
    make_shards(folder, 22, shard_size=10, size=(20, 24))
    (folder / "classes.txt").write_text("a\nb\nc\n")
    return folder


def exported(run: Path, shards: Path | str, out: Path, *options: str) -> dict:
    """latents.json of an export."""
    source = str(shards) if str(shards).endswith(".tar") else f"{shards}/shard-*.tar"
    words = ["latents", str(run), source, str(out), "--workers", "0", *options]
    assert main(words) == 0
    return json.loads((out / "latents.json").read_text())


def opened(run: Path) -> tuple[Config, Any]:
    """Settings and model of a run."""
    config, model, _ = load_pretrained(run)
    return config, model


def samples(tar: Path) -> list[dict]:
    """Samples of a shard, decoded by webdataset."""
    dataset: Any = webdataset.WebDataset(str(tar), shardshuffle=False).decode()
    return list(dataset)


@torch.no_grad()
def test_latents_are_the_models_own_with_keys_labels_and_scale(run, shards, tmp_path, capsys):
    record = exported(run, shards, tmp_path / "out")
    assert "scaling_factor" in capsys.readouterr().out
    config, model = opened(run)
    images = open_images([f"{shards}/*.tar"], "x", config)
    views = CentredViews(images, (16, 16), config.data.crop_pct)
    batch = torch.stack([views.view(number) for number in range(22)])
    found = [one for tar in sorted((tmp_path / "out").glob("*.tar")) for one in samples(tar)]
    assert [one["__key__"] for one in found] == [f"sample-{number:05d}" for number in range(22)]
    assert [one["cls"] for one in found] == [number % 3 for number in range(22)]
    mean, std = (np.stack([one[key] for one in found]) for key in ("npy", "std.npy"))
    assert mean.dtype == std.dtype == np.float32 and mean.shape == (22, 4, 4, 4)
    np.testing.assert_allclose(mean, model.latents(batch).numpy(), atol=1e-5)
    # An oracle of the scale: the moments of many draws.
    draws = mean + std * np.random.default_rng(0).normal(size=(400, *mean.shape))
    assert 1 / record["scaling_factor"] == pytest.approx(draws.std(), rel=5e-3)
    np.testing.assert_allclose(record["latents_std"], draws.std((0, 1, 3, 4)), rtol=1e-2)
    np.testing.assert_allclose(record["latents_mean"], mean.mean((0, 2, 3)), rtol=1e-5)
    assert record["images"] == 22 and list(record["shards"].values()) == [10, 10, 2]
    assert record["members"]["std.npy"]["shape"] == [4, 4, 4]
    assert record["classes"] == ["a", "b", "c"] and record["model"]["objective"] == "kl"
    manifest = open_manifest(str(tmp_path / "out" / "manifest-shard.safetensors"))
    direct = build_manifest([f"{tmp_path}/out/*.tar"])
    assert manifest.fingerprint == direct.fingerprint and not direct.warnings()
    assert manifest.label.tolist() == [number % 3 for number in range(22)]


def test_halves_and_mirrored_images_are_options(run, shards, tmp_path):
    exported(run, shards / "shard-000002.tar", tmp_path / "plain")
    exported(run, shards / "shard-000002.tar", tmp_path / "out", "--flip", "--dtype", "float16")
    (one, other), (plain, _) = (
        samples(tmp_path / name / "shard-000002.tar") for name in ("out", "plain")
    )
    assert {key for key in one if key.endswith("npy")} == {
        "npy",
        "std.npy",
        "flip.npy",
        "flip.std.npy",
    }
    assert one["npy"].dtype == np.float16 == other["flip.npy"].dtype
    np.testing.assert_allclose(one["npy"], plain["npy"], rtol=1e-3, atol=1e-3)
    config, model = opened(run)
    images = open_images([f"{shards}/shard-000002.tar"], "x", config)
    view = CentredViews(images, (16, 16), config.data.crop_pct).view(0).flip(-1)
    with torch.no_grad():
        expected = model.latents(view[None])[0].numpy()
    np.testing.assert_allclose(one["flip.npy"], expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("objective", "settings", "members"),
    [
        ("vae", {"latent_dim": 6}, {"npy": (6,), "std.npy": (6,)}),
        ("ae", {"latent": "map", "latent_dim": 2}, {"npy": (2, 4, 4)}),
        ("fsq", {"levels": [4, 3, 3]}, {"npy": (4, 4)}),
        ("vqvae2", {"codebook_size": 16, "latent_dim": 4}, {"npy": (4, 4), "top.npy": (2, 2)}),
    ],
)
@torch.no_grad()
def test_other_latents_and_codes(objective, settings, members, shards, tmp_path):
    run = untrained_run(tmp_path / "run", small_config(objective, 3, **settings))
    record = exported(run, shards / "shard-000002.tar", tmp_path / "out")
    (one, _) = samples(tmp_path / "out" / "shard-000002.tar")
    assert {key: one[key].shape for key in one if key.endswith("npy")} == members
    config, model = opened(run)
    view = CentredViews(open_images([f"{shards}/shard-000002.tar"], "x", config), (16, 16), None)
    image = view.view(0)[None]
    if "codes" not in record:
        np.testing.assert_allclose(one["npy"], model.latents(image)[0].numpy(), atol=1e-5)
        return
    assert one["npy"].dtype == np.int16
    arrays = [torch.from_numpy(one[key])[None].long() for key in sorted(members, reverse=True)]
    codes = model.bottleneck.join(arrays)
    assert torch.equal(codes, model.codes(image)), "decode_codes reads what was stored"
    assert record["codes"][""]["num_codes"] == model.bottleneck.num_codes


def png(size: int = 20) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), 90, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_metadata_are_copied_and_bad_images_left_out_and_named(run, make_tar, tmp_path, capsys):
    members = [
        ("a/1.json", b'{"caption": "one"}'),
        ("a/1.png", png()),
        ("a/1.txt", b"one"),
        ("a/2.png", png()[:-30]),
        ("a/2.txt", b"two"),
        ("a/IMG.05.01.png", png()),
        ("a/IMG.05.01.txt", b"dotted"),
        ("a/IMG.cls", b"3"),
        ("a/1.mask.png", png()),
        ("README", b"no sample"),
    ]
    make_tar(tmp_path / "odd.tar", members)
    words = ["latents", str(run), str(tmp_path / "odd.tar"), str(tmp_path / "out"), "--workers=0"]
    assert main([*words, "--max-bad=0"]) == 2
    assert "more than --max-bad = 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "--max-bad=1"]) == 0
    said = capsys.readouterr()
    assert "skipped: " in said.err and "a/2" in said.err
    assert "not copied: 1 without an extension, 1 .mask.png" in said.out
    one, dotted = samples(tmp_path / "out" / "odd.tar")
    assert one["json"] == {"caption": "one"} and one["txt"] == "one"
    assert dotted["__key__"] == "a/IMG_05_01" and dotted["cls"] == 3 and dotted["txt"] == "dotted"
    record = json.loads((tmp_path / "out" / "latents.json").read_text())
    assert record["images"] == 2 and len(record["skipped"]) == 1 and record["renamed_keys"] == 1


def test_two_processes_with_workers_after_a_stop_give_the_same_bytes(shards, tmp_path):
    # Not kl: each process would import diffusers.
    run = untrained_run(tmp_path / "run", small_config("vae", 3, latent_dim=6))
    exported(run, shards, tmp_path / "one", "--batch-size", "4")
    words = ["latents", str(run), f"{shards}/shard-*.tar", str(tmp_path / "two")]
    words += ["--batch-size", "4", "--workers", "1"]
    with stopped_after(1), pytest.raises(Stopped):
        main([*words, "--workers", "0"])
    assert not (tmp_path / "two").exists()
    done = completed(forked("mae", *words))
    assert done.returncode == 0 and "resuming" in done.stderr, done.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    for name in ("shard-000000.tar", "shard-000002.tar", "latents.json", "classes.txt"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert not list(tmp_path.glob(".*.parts"))


def test_a_failed_read_is_not_taken_for_a_failed_write(run, shards, tmp_path, monkeypatch, capsys):
    class Failing(io.BufferedReader):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    @contextlib.contextmanager
    def open_failing(reader: ShardReader, shard: int) -> Iterator[BinaryIO]:
        with Failing(io.FileIO(reader.manifest.shards[shard])) as file:
            yield file

    monkeypatch.setattr(ShardReader, "open_shard", open_failing)
    words = ["latents", str(run), f"{shards}/shard-000002.tar", str(tmp_path / "out")]
    words += ["--workers=0"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert f"{shards}/shard-000002.tar: cannot be read: Input/output error" in line


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("mae", "objective mae has no latents; mae latents needs them; objectives with them: ae"),
        ("dae", "this denoiser predicts the noise of its input"),
    ],
)
def test_models_without_latents_are_refused(objective, words, shards, tmp_path, capsys):
    from tests.untrained import tiny_config

    config = tiny_config() if objective == "mae" else small_config(objective, 3)
    folder = untrained_run(tmp_path / "run", config)
    out = tmp_path / "out"
    assert main(["latents", str(folder), f"{shards}/shard-*.tar", str(out)]) == 2
    assert words in capsys.readouterr().err and not out.exists()


def test_what_would_lose_data_is_refused(run, shards, make_tar, tmp_path, capsys):
    def refused(*sources: str) -> str:
        assert main(["latents", str(run), *sources, str(tmp_path / "out"), "--workers=0"]) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        return line

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("a/x.tar", "b/x.tar", "b/y.tar"):
        make_tar(tmp_path / name, [("1.png", png())])
    assert "shards of the same name" in refused(
        str(tmp_path / "a/x.tar"), str(tmp_path / "b/x.tar")
    )
    (tmp_path / "a" / "classes.txt").write_text("cat\n")
    (tmp_path / "b" / "classes.txt").write_text("dog\n")
    line = refused(str(tmp_path / "a/x.tar"), str(tmp_path / "b/y.tar"))
    assert "shards of different classes (cat and dog)" in line
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    assert "is not empty" in refused(str(tmp_path / "a/x.tar"))
    with tarfile.open(tmp_path / "dots.tar", "w") as tar:
        for name in ("x.1.png", "x_1.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png())
            tar.addfile(member, io.BytesIO(png()))
    (tmp_path / "out" / "kept").unlink()
    assert "several keys become x_1" in refused(str(tmp_path / "dots.tar"))
