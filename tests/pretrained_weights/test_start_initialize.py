"""Real runs that start from weights, and our own folders as sources."""

import json
import shutil

import pytest
import torch

import mae.cli
from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.pretrain import main
from mae.pretrained_weights.find import find_weights
from mae.pretrained_weights.fit import load_encoder
from mae.training.checkpoint.checkpoint_files import newest_checkpoint
from mae.training.checkpoint.run import Run
from tests.pretrained_weights.models import classifier
from tests.runs import final_weights, launch_forked, metrics_of, write_config

SHORT = ("train.epochs=1", "optim.warmup_epochs=0.5", "log.health_every=0")


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    folder = tmp_path_factory.mktemp("shards")
    return make_shards(folder, 24, size=(20, 24), extension="png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shards):
    """A finished run from scratch."""
    folder = tmp_path_factory.mktemp("trained")
    assert main([str(write_config(folder, shards)), *SHORT]) == 0
    return folder / "run"


def checkpoint_of(run):
    found = newest_checkpoint(Run(run).checkpoints)
    assert found
    return found.path


def test_a_run_starts_from_a_run_and_goes_on_without_it(tmp_path, trained, shards, capsys):
    source = tmp_path / "source"
    shutil.copytree(trained, source)
    record = {"license": "cc-by-nc-4.0", "non_commercial": True}
    (source / "init.json").write_text(json.dumps(record))
    config, run = str(write_config(tmp_path, shards)), tmp_path / "run"
    start = [config, f"init.from={source}", *SHORT, "optim.lr=1e-30"]

    assert main([*start, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "init    30 of 30 encoder tensors and 20 of 20 decoder tensors from" in printed
    assert not run.exists()

    assert main(start) == 0
    assert "init    licence CC-BY-NC-4.0: not for commercial use" in capsys.readouterr().out
    before, after = final_weights(source), final_weights(run)
    assert before.keys() == after.keys()
    for key in before:  # so small a learning rate moves nothing
        assert torch.equal(before[key], after[key]), key
    written = json.loads((run / "init.json").read_text())
    state = json.loads((checkpoint_of(source) / "state.json").read_text())
    assert written["from"] == str(source)
    assert (written["license"], written["non_commercial"]) == ("cc-by-nc-4.0", True)
    assert (written["keys_loaded"], written["skipped"]) == (50, {})
    assert written["sha256"] == state["files"]["model.safetensors"]["sha256"]

    shutil.rmtree(source)
    assert main([*start, "train.epochs=2"]) == 0
    printed = capsys.readouterr().out
    assert "init " not in printed
    assert json.loads((run / "init.json").read_text()) == written
    assert [row["step"] for row in metrics_of(run)] == [1, 2, 3, 4, 5, 6]


def test_two_processes_start_from_the_same_as_one(tmp_path, trained, shards):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert main([str(write_config(one, shards)), f"init.from={trained}", *SHORT]) == 0
    done = launch_forked(write_config(two, shards), f"init.from={trained}", *SHORT)
    assert done.returncode == 0, done.stderr
    losses = [[row["loss"] for row in metrics_of(folder / "run")] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][0] < metrics_of(trained)[0]["loss"]


def test_weights_that_do_not_fit_leave_no_run(tmp_path, trained, shards, capsys):
    config = str(write_config(tmp_path, shards))
    assert main([config, f"init.from={trained}", *SHORT, "data.img_size=24"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "pos_embed has shape [1, 17, 32]" in printed
    assert "init.adapt_size=true" in printed
    assert not (tmp_path / "run").exists()
    settings = ["data.img_size=24", "init.adapt_size=true"]
    assert main([config, f"init.from={trained}", *SHORT, *settings]) == 0
    assert "positions resampled from 4 x 4 to 6 x 6 patches" in capsys.readouterr().out


def test_a_checkpoint_of_a_run_is_a_source_and_a_damaged_one_is_not(tmp_path, trained):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    checkpoint = checkpoint_of(copy)
    assert find_weights(str(checkpoint)).encoder.keys() == find_weights(str(copy)).encoder.keys()
    assert find_weights(str(copy)).geometry == (2, (4, 4), 2, 1e-6, "gelu", {}, (4, 4), (4, 4))
    assert find_weights(str(copy)).normalisation == ((0.5,) * 3, (0.25,) * 3)
    weights = bytearray((checkpoint / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (checkpoint / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"model.safetensors is damaged"):
        find_weights(str(checkpoint))
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match=r"copy: a run without a checkpoint yet"):
        find_weights(str(copy))


@pytest.mark.parametrize(
    ("format", "place"),
    [("timm", ""), ("mae", "mae.pth"), ("mae", "mae.safetensors"), ("hf", ""), ("plain", "")],
)
def test_exports_of_ours_come_back_whole(tmp_path, monkeypatch, trained, format, place):
    monkeypatch.setattr("mae.export.folder.check_export", lambda *_: 0.0)  # tested elsewhere
    assert mae.cli.main(["export", str(trained), str(tmp_path / "x"), "--format", format]) == 0
    weights = find_weights(str(tmp_path / "x" / place))
    ours = final_weights(trained)
    for part, found in (("encoder", weights.encoder), ("decoder", weights.decoder)):
        assert {f"{part}.{key}" for key in found} == {k for k in ours if k.startswith(part)}
        for key, tensor in found.items():
            if (part, key) != ("decoder", "pos_embed"):  # with a row for the class token, or not
                assert torch.equal(tensor, ours[f"{part}.{key}"]), key


def test_a_classifier_starts_from_a_pretrained_run(trained):
    target = classifier(
        classes=3, img_size=16, patch_size=4, num_heads=2, global_pool="avg", fc_norm=True
    )
    fresh = [key for key in target.state_dict() if key.startswith(("head.", "fc_norm."))]
    loaded = load_encoder(target, find_weights(str(trained)), fresh=fresh)
    assert (loaded.tensors, loaded.of, len(loaded.kept)) == (28, 32, 4)


def test_the_source_of_a_run_cannot_change_unnoticed(tmp_path, trained, shards, capsys):
    run = Run(tmp_path / "run")
    run.open(load_config(write_config(tmp_path, shards), SHORT))
    assert main([str(tmp_path / "tiny.yaml"), f"init.from={trained}", *SHORT]) == 2
    assert "init.from:  → " in capsys.readouterr().err
