"""Runs over data that is damaged, mixed, dealt out in other orders, or no 8-bit colour."""

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from mae.cli import main as mae
from mae.data.indexing import build_manifest
from mae.pretrain import main
from tests.runs import (
    command,
    environment,
    final_weights,
    launch_forked,
    metrics_of,
    same_weights,
    write_config,
)

IMAGES = 50
FAST = ("train.epochs=2", "optim.warmup_epochs=0.5")


@pytest.fixture
def damaged(tmp_path, make_shards):
    """A config whose shards hold three images with a hole, by (shard, key)."""
    pattern = make_shards(tmp_path / "shards", IMAGES, shard_size=10, size=(20, 24))
    manifest = build_manifest([pattern])
    bad = [3, 17, 44]
    for sample in bad:
        with Path(manifest.shards[manifest.shard_of(sample)]).open("r+b") as file:
            file.seek(int(manifest.offset[sample]))
            file.write(bytes(64))
    shutil.rmtree(tmp_path / "shards" / ".mae-index")  # damaged before the run
    names = {(manifest.shard_name(sample), manifest.key(sample)) for sample in bad}
    return write_config(tmp_path, pattern), names


def quarantined(config):
    file = config.parent / "run" / "quarantine.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def losses(config):
    return [row["loss"] for row in metrics_of(config.parent / "run")]


def test_bad_images_are_replaced_named_and_counted(damaged, capsys):
    config, names = damaged
    assert main([str(config)]) == 0
    rows = quarantined(config)
    assert len(rows) == 3 and {(row["shard"], row["key"]) for row in rows} == names
    assert all("does not decode" in row["error"] and row["step"] > 0 for row in rows)
    assert metrics_of(config.parent / "run")[-1]["bad"] == 3
    lines = capsys.readouterr().out.splitlines()
    (last,) = [line for line in lines if line.startswith("step 25/25")]
    assert last.endswith("bad 3")


def test_two_processes_replace_the_same_images(damaged, tmp_path):
    config, names = damaged
    assert main([str(config), *FAST]) == 0
    alone = losses(config)
    other = tmp_path / "two"
    other.mkdir()
    shards = f"{tmp_path}/shards/shard-*.tar"
    two = write_config(other, shards)
    result = launch_forked(two, *FAST, "data.workers=1")
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(losses(two), alone, rtol=1e-5)
    assert {(row["shard"], row["key"]) for row in quarantined(two)} == names


def test_past_the_budget_the_run_stops_with_a_checkpoint_and_goes_on_with_a_larger_one(
    damaged, tmp_path, capsys
):
    config, _ = damaged
    assert main([str(config), "data.max_bad=1"]) == 1
    message = capsys.readouterr().err
    assert "2 unreadable images, more than data.max_bad = 1" in message
    assert "quarantine.jsonl lists them" in message
    stopped = metrics_of(config.parent / "run")[-1]["step"]
    assert (config.parent / "run" / "checkpoints" / f"step-{stopped:09d}").is_dir()
    assert main([str(config), "data.max_bad=1"]) == 1  # and not a step further
    assert metrics_of(config.parent / "run")[-1]["step"] == stopped

    assert main([str(config), "data.max_bad=3"]) == 0
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    other = write_config(undisturbed, f"{tmp_path}/shards/shard-*.tar")
    assert main([str(other)]) == 0
    assert same_weights(final_weights(config.parent / "run"), final_weights(undisturbed / "run"))
    assert len(quarantined(config)) == 3  # each once, over three starts


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_data_worker_ends_the_run_with_a_checkpoint_and_its_name(
    tmp_path, make_shards, processes
):
    config = write_config(tmp_path, make_shards(tmp_path / "shards", IMAGES, size=(20, 24)))
    settings = ("data.workers=1", "train.epochs=200", "train.checkpoint_every=100000")
    process = subprocess.Popen(
        command(config, *settings, processes=processes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and '"step": 10,' in metrics.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    trainers = [psutil.Process(process.pid)] if processes == 1 else children
    workers = [child for one in trainers for child in one.children() if trains(child, one)]
    workers[-1].kill()
    killed = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert time.monotonic() - killed < 45
    messages = [line for line in errors.splitlines() if line.startswith("mae: ")]
    others = {  # of the one that waits for it, or that the launcher ends
        "mae: another process of the run has ended",
        "mae: SIGTERM: finishing this step, then saving; again to leave now",
    }
    assert others.issuperset(messages[1:]), errors
    line = messages[0]
    assert f"data worker {workers[-1].pid} (signal 9) died" in line
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert line.endswith(f"the last checkpoint is of step {int(saved.name[5:])}")
    assert int(saved.name[5:]) >= 10
    psutil.wait_procs(children, timeout=20)
    assert not [one for one in children if one.is_running() and one.status() != "zombie"]


def trains(child, parent):
    """A data worker: forked, so its command line is its parent's."""
    return child.cmdline() == parent.cmdline() and "mae.pretrain" in " ".join(parent.cmdline())


def test_a_shard_that_vanishes_ends_the_run_with_a_checkpoint(tmp_path, make_shards, monkeypatch):
    pattern = make_shards(tmp_path / "shards", IMAGES, shard_size=10, size=(20, 24))
    config = write_config(tmp_path, pattern)
    # One shard is open at most, so that the others are opened again and again.
    monkeypatch.setattr("mae.data.shard_reader.OPEN_SHARDS", 1)
    from mae.training.tracking.tracker import Tracker

    report = Tracker.report

    def lose_a_shard(self, row, line):
        report(self, row, line)
        if row["step"] == 6:
            (tmp_path / "shards" / "shard-000002.tar").rename(tmp_path / "gone.tar")

    monkeypatch.setattr(Tracker, "report", lose_a_shard)
    assert main([str(config), "train.checkpoint_every=1000"]) == 1
    monkeypatch.undo()
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    (tmp_path / "gone.tar").rename(tmp_path / "shards" / "shard-000002.tar")
    assert main([str(config), "train.checkpoint_every=1000"]) == 0


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(("data.order=window", "data.window=2"), marks=pytest.mark.fault),  # long ones
        pytest.param(
            ("data.order=lanes", "data.lanes=4", "data.window=1"), marks=pytest.mark.fault
        ),
        pytest.param(("data.repeats=2",), marks=pytest.mark.fault),
        ("data.order=lanes", "data.lanes=2", "data.repeats=4", "data.crop_on_device=true"),
    ],
    ids=["window", "lanes", "repeats", "everything"],
)
def test_every_order_gives_two_processes_the_curve_of_one(tmp_path, make_shards, settings):
    pattern = make_shards(tmp_path / "shards", IMAGES, shard_size=7, size=(20, 24))
    config = write_config(tmp_path, pattern)
    assert main([str(config), *FAST, *settings]) == 0
    other = tmp_path / "two"
    other.mkdir()
    two = write_config(other, pattern)
    result = launch_forked(two, *FAST, *settings, "data.workers=1")
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(losses(two), losses(config), rtol=1e-5)


def test_a_device_may_decode(tmp_path, make_shards, capsys):
    """A CPU as device decodes by the same library as the workers: the same bits."""
    config = write_config(tmp_path, make_shards(tmp_path / "shards", IMAGES, size=(20, 24)))
    assert main([str(config), *FAST, "data.crop_on_device=true"]) == 0
    cropped = final_weights(tmp_path / "run")
    other = f"output={tmp_path / 'other'}"
    assert main([str(config), *FAST, "data.decode_on_device=true", "data.workers=1", other]) == 0
    assert same_weights(cropped, final_weights(tmp_path / "other"))
    capsys.readouterr()
    assert main([str(config), *FAST, other]) == 2
    assert "data.decode_on_device" in capsys.readouterr().err
    assert main([str(config), "data.decode_on_device=true", "data.bits=16", "--dry-run"]) == 2
    assert "data.decode_on_device: is for JPEGs, not for" in capsys.readouterr().err


def test_a_missing_decoder_is_reported_before_there_is_a_run(
    tmp_path, make_shards, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    config = write_config(tmp_path, make_shards(tmp_path / "shards", IMAGES, size=(20, 24)))
    assert main([str(config), "data.decode_on_device=true"]) == 2
    assert "decoding on the device needs nvImageCodec" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_mixture_trains_and_resumes(tmp_path, make_shards, capsys):
    one = make_shards(tmp_path / "one", 20, size=(20, 24))
    other = make_shards(tmp_path / "other", 30, size=(24, 20), extension="png")
    mixture = f"data.mixture=[{{shards: '{one}', weight: 3}}, {{shards: '{other}'}}]"
    config = write_config(tmp_path, one)
    config.write_text(config.read_text().replace(f"train: '{one}', ", ""))
    assert main([str(config), mixture]) == 0
    whole = final_weights(tmp_path / "run")
    assert "50 images in 7 shards" in capsys.readouterr().out
    for left in (tmp_path / "run" / "checkpoints").glob("step-*"):
        if left.name != "step-000000024":
            for file in left.iterdir():
                file.unlink()
            left.rmdir()
    assert main([str(config), mixture]) == 0
    assert same_weights(whole, final_weights(tmp_path / "run"))
    assert main([str(config), mixture, f"data.train={one}"]) == 2
    assert "data.mixture: replaces data.train: give one of the two" in capsys.readouterr().err


def four_bits(number, rng):
    """A 4-bit gray PNG."""
    image = Image.fromarray(picture(number, 1, 255, rng)[..., 0].astype(np.uint8))
    file = io.BytesIO()
    image.quantize(16).save(file, "PNG", bits=4)
    return "png", file.getvalue()


def sixteen_bits(number, rng):
    """A 16-bit gray PNG."""
    file = io.BytesIO()
    Image.fromarray(picture(number, 1, 65535, rng)[..., 0].astype(np.uint16)).save(file, "PNG")
    return "png", file.getvalue()


def seven_channels(number, rng):
    """An array of seven bands."""
    file = io.BytesIO()
    np.save(file, picture(number, 7, 255, rng).astype(np.uint8))
    return "npy", file.getvalue()


def picture(number, channels, white, rng):
    y, x, c = np.mgrid[0:20, 0:24, 0:channels]
    wave = np.sin(x / (2 + number % 3) + y / 5 + c) * 0.4 + 0.5
    return (wave + rng.uniform(-0.05, 0.05, wave.shape)) * white


@pytest.mark.parametrize(
    ("make", "channels", "bits"),
    [
        pytest.param(four_bits, 1, 8, marks=pytest.mark.fault),  # long ones
        pytest.param(seven_channels, 7, 8, marks=pytest.mark.fault),
        (sixteen_bits, 1, 16),
    ],
)
def test_from_files_of_any_depth_and_channels_to_an_encoder(tmp_path, make, channels, bits, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(24):
        extension, data = make(number, rng)
        (tmp_path / "images" / f"{number}.{extension}").write_bytes(data)
    shards = tmp_path / "shards"
    assert mae(["pack", str(tmp_path / "images"), str(shards), "--shard-size", "10"]) == 0
    config = write_config(tmp_path, f"{shards}/train-*.tar")
    text = config.read_text().replace(", mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]", "")
    config.write_text(text)
    settings = (f"data.in_chans={channels}", f"data.bits={bits}", "data.own_statistics=true")
    assert main([str(config), *settings, "train.epochs=60", "log.panel_every=100"]) == 0
    curve = losses(config)
    assert np.mean(curve[-10:]) < 0.8 * curve[0]  # it learns, so the pixels are there

    run, encoder = str(tmp_path / "run"), str(tmp_path / "encoder")
    assert mae(["export", run, encoder]) == 0
    about = json.loads((tmp_path / "encoder" / "config.json").read_text())["pretrained_cfg"]
    assert about["input_size"] == [channels, 16, 16]
    assert len(about["mean"]) == channels and all(0.3 < mean < 0.7 for mean in about["mean"])
    pattern = f"{shards}/train-*.tar"
    assert mae(["reconstruct", run, pattern, "--device", "cpu"]) == 0
    assert main([str(config), *settings, "train.epochs=60", "log.panel_every=100"]) == 0  # resumes
