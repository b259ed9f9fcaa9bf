"""Run folders of version 0.1.0 (other settings' keys, other place of averaged weights) resume."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mae.base.errors import UserError
from mae.cli import main as mae
from mae.config.loading import dump_config, load_config, recorded_config
from mae.config.sections import Config
from mae.finetune import main as finetune
from mae.pretrain import main as pretrain
from mae.training.checkpoint.average import MovingAverage
from mae.training.checkpoint.resume import load_average
from mae.training.checkpoint.trained import build_objective
from tests.runs import final_weights, metrics_of

EARLIER = Path(__file__).parents[1] / "earlier"
STOPPED, STEPS = 7, 26
FINETUNE = [
    *("finetune.ema=0.9", "finetune.mixup=0.8", "finetune.drop_path=0.1"),
    *("train.batch_size=8", "train.epochs=4", "optim.warmup_epochs=1"),
    *("log.every=1", "log.wandb=false", "train.checkpoint_every=4", "data.workers=0"),
]


TRAIN = "data.train=x.tar"


def test_former_switches_of_trackers_are_names_in_the_list(tmp_path):
    def trackers(*words: str, written: str = "") -> list[str]:
        path = tmp_path / "run.yaml"
        path.write_text(written)
        return [*load_config(path, [TRAIN, *words]).log.trackers]

    assert trackers() == ["wandb-offline"]
    assert trackers("log.wandb=true") == ["wandb"]
    assert trackers("log.wandb=false") == []
    assert trackers("log.tensorboard=true") == ["wandb-offline", "tensorboard"]
    written = "log: {wandb: false}"
    assert trackers(written=written) == []
    assert trackers("log.tensorboard=true", written=written) == ["tensorboard"]
    assert trackers("log.trackers=[wandb, mlflow]", written=written) == ["wandb", "mlflow"]
    assert trackers("log.trackers=aim", "log.wandb=true") == ["aim", "wandb"]
    assert trackers("log.wandb=false", written="log: {trackers: [mlflow, wandb]}") == ["mlflow"]
    with pytest.raises(UserError, match=r"log\.trackers: 'mlflo' is unknown, did you mean mlflow"):
        trackers("log.trackers=[wandb, mlflo]")
    with pytest.raises(UserError, match=r"log\.wandb: unknown key"):
        trackers("log.wandb=7")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_shards):
    """Folder with a copy of `earlier/` and the shards that its runs trained on."""
    folder = tmp_path_factory.mktemp("earlier")
    make_shards(folder / "shards", 52, shard_size=20, size=(20, 24), extension="png")
    shutil.copytree(EARLIER, folder / "earlier")
    return folder


def resume(folder: Path, main: Callable[[list[str]], int], *words: str) -> str:
    """Run a command in `folder`, which recorded paths are relative to; returns what it printed."""
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        assert main([*words]) == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def pretraining(folder):
    """Pretraining that was stopped after step 7, resumed to its end."""
    printed = resume(folder, pretrain, str(written_by_hand(folder)))
    assert f"resumed at step {STOPPED}" in printed
    return folder / "earlier" / "pretraining"


def written_by_hand(folder: Path) -> Path:
    """YAML file that the earlier run was started with, in its version's keys."""
    path = folder / "by_hand.yaml"
    path.write_text("""\
output: earlier/pretraining
model:
  encoder: vit_tiny_patch16_224
  encoder_kwargs: {embed_dim: 16, depth: 1, num_heads: 2}
  img_size: 16
  patch_size: 4
  decoder_embed_dim: 16
  decoder_depth: 1
  decoder_num_heads: 2
data: {train: 'shards/shard-*.tar', workers: 0, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
optim: {lr: 2.0e-3, warmup_epochs: 1}
train: {epochs: 4, batch_size: 8, checkpoint_every: 4}
log: {every: 1, panel_every: 0, wandb: false}
""")
    return path


@pytest.fixture(scope="module")
def classifier(folder, pretraining):
    """Fine-tuning of it that was stopped after step 7, resumed to its end."""
    words = ["earlier/pretraining", "output=earlier/classifier"]
    assert f"resumed at step {STOPPED}" in resume(folder, finetune, *words, *FINETUNE)
    return folder / "earlier" / "classifier"


@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_resumed_metrics_equal_the_earlier_versions(kind, request):
    """Every metric of every step is equal up to the rounding differences between machines."""
    run = request.getfixturevalue(kind)
    lines = (EARLIER / kind / "to-the-end.jsonl").read_text().splitlines()
    expected = [json.loads(line) for line in lines]
    found = metrics_of(run)
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    for row, other in zip(found, expected, strict=True):
        for key, value in other.items():
            assert row[key] == pytest.approx(value, rel=1e-4, abs=1e-5), (row["step"], key)


def test_average_resumes_from_the_stored_average(classifier):
    """It must not start again from the weights."""
    path = EARLIER / "classifier" / "checkpoints" / f"step-{STOPPED:09d}"
    earlier, final = load_file(path / "model.safetensors"), final_weights(classifier)
    objective = build_objective(recorded_config(EARLIER / "classifier"))
    average = MovingAverage(objective, 0.9)
    load_average(path, objective, average)
    names = {key.removeprefix("average.") for key in final if key.startswith("average.")}
    assert names == average.tensors().keys()
    for name, tensor in average.tensors().items():
        assert torch.equal(tensor, earlier[f"average.{name.removeprefix('encoder.')}"])
    head = "encoder.head.weight"
    assert not torch.equal(average.tensors()[head], earlier[head])


@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_earlier_checkpoint_is_loaded_completely(folder, kind, tmp_path):
    """Averaged weights, where there are any, are the ones loaded for evaluation."""
    from mae.training.checkpoint.trained import load_pretrained

    shutil.copytree(EARLIER / kind, tmp_path / kind)
    _, objective, state = load_pretrained(tmp_path / kind)
    path = tmp_path / kind / "checkpoints" / f"step-{STOPPED:09d}" / "model.safetensors"
    stored = load_file(path)
    assert state.step == STOPPED
    for name, tensor in objective.state_dict().items():
        averaged = f"average.{name.removeprefix('encoder.')}"
        expected = stored[averaged] if averaged in stored else stored[name]
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_commands_read_earlier_runs(folder, kind, tmp_path, capsys):
    run = tmp_path / kind
    shutil.copytree(EARLIER / kind, run)
    assert mae(["report", str(run)]) == 0
    shards = str(folder / "shards" / "*.tar")
    assert mae(["pca", str(run), shards, "--out", str(tmp_path / "pca.png")]) == 0
    assert mae(["export", str(run), str(tmp_path / "export"), "--images", shards]) == 0
    assert (tmp_path / "export" / "model.safetensors").exists()


def test_recorded_settings_are_migrated(folder):
    config = recorded_config(EARLIER / "classifier")
    assert (config.data.img_size, config.data.in_chans, config.train.ema) == ((16, 16), 3, 0.9)
    assert isinstance(config, Config)
    path = folder / "again.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


def test_recorded_config_file_starts_a_new_run(folder):
    """`mae pretrain RUN/config.yaml output=…`; keys of other objectives are dropped."""
    for kind, objective in (("pretraining", "mae"), ("classifier", "classifier")):
        config = load_config(EARLIER / kind / "config.yaml", ["output=elsewhere"])
        assert config.objective == objective and config.output == "elsewhere"
        assert config.model == recorded_config(EARLIER / kind).model


def test_invalid_recorded_value_is_reported_with_its_key(tmp_path):
    text = (EARLIER / "pretraining" / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("mask_ratio: 0.75", "mask_ratio: 7"))
    with pytest.raises(UserError, match=r"config\.yaml: model\.mask_ratio: 7 should be less than"):
        recorded_config(tmp_path)
