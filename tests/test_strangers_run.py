"""A run folder, or an export, from somebody else: it runs no command and picks no folder here."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mae.cli import main
from mae.config.loading import recorded_config
from mae.config.sections import DataConfig
from mae.training.checkpoint.trained import read_description


@pytest.fixture
def strangers(tmp_path, reference_run, monkeypatch):
    """A copy of a run whose config.yaml runs a command and has folders of ours as its cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run, ours = tmp_path / "run", tmp_path / "ours"
    shutil.copytree(reference_run.folder, run)
    ours.mkdir()
    (ours / "photos.tar").write_bytes(b"ours")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    command = f"pipe:touch {tmp_path}/ran; cat {settings['data']['train']}"
    settings["data"] |= {
        "train": [command],
        "val": [command],
        "allow_pipe": True,
        "cache_dir": str(ours),
        "index_dir": str(ours),
        "cache_gb": 1e-9,
    }
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    return run


LINES = [
    "export {run} {out}/export",
    "inspect-batch {run} 1",
    "finetune {run} output={out}/tuned train.epochs=1 optim.warmup_epochs=0 finetune.num_classes=3",
    "pretrain {run}/config.yaml output={out}/again",
    "knn {run} --train {command} --test {command}",
    "probe {run} --train {command} --test {command}",
    "attentive {run} --train {command} --test {command}",
    "features {run} {command} --out {out}/f.safetensors",
    "reconstruct {run} {command}",
    "neighbours {run} {command} --among {command}",
]


@pytest.mark.parametrize("line", LINES)
def test_its_commands_are_not_run(line, strangers, tmp_path, capsys):
    command = yaml.safe_load((strangers / "config.yaml").read_text())["data"]["train"][0]
    words = [word.format(run=strangers, out=tmp_path, command=command) for word in line.split()]
    assert main(words) == 2
    assert "would run a command on this machine" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "ours" / "photos.tar").read_bytes() == b"ours"
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["photos.tar"]


def test_a_command_of_this_call_is_run_when_allowed(strangers, shards, tmp_path, capsys):
    shard = sorted(Path(shards).parent.glob("*.tar"))[0]
    out = f"{tmp_path}/f.safetensors"
    line = ["features", str(strangers), f"pipe:cat {shard}", "--out", out]
    assert main([*line, "--allow-pipe", "--cache-dir", str(tmp_path / "cache")]) == 0
    assert list((tmp_path / "cache").glob("*.tar"))
    assert "20 images" in capsys.readouterr().out


def test_no_setting_that_acts_on_this_machine_counts(strangers, tmp_path):
    usual, read = DataConfig(), recorded_config(strangers).data
    for name in ("allow_pipe", "cache_dir", "index_dir", "cache_gb"):
        assert getattr(read, name) == getattr(usual, name)
    content = {
        "format": "plain",
        "format_version": 1,
        "step": 1,
        "samples": 8,
        "data": "f",
        "config": yaml.safe_load((strangers / "config.yaml").read_text()),
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_description(tmp_path).config.data.allow_pipe is False


def test_steps_of_a_run_whose_shards_have_moved_are_shown(reference_run, shards, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(reference_run.folder, run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(Path(shards).parent), "/moved"))
    assert main(["inspect-batch", str(run), "1"]) == 2
    assert main(["inspect-batch", str(run), "1", "--train", shards]) == 0
    assert "key sample-" in capsys.readouterr().out


def test_a_link_in_its_folder_is_not_written_through(tmp_path):
    from mae.base.exit_status import append_row

    (tmp_path / "profile").write_text("ours\n")
    (tmp_path / "events.jsonl").symlink_to(tmp_path / "profile")
    with pytest.raises(OSError):
        append_row(tmp_path / "events.jsonl", {"step": 1})
    assert (tmp_path / "profile").read_text() == "ours\n"
