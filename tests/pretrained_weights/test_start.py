"""First weights of an objective without a rule of its own: all of them, of the same objective."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mae.base.errors import UserError
from mae.cli import main
from mae.config.sections import InitConfig, TrainConfig
from mae.objectives import registry
from mae.pretrained_weights.start import initialize
from mae.training.checkpoint.trained import build_objective
from tests.runs import same_weights
from tests.toy.runs import toy_config
from tests.untrained import classifier_config, tiny_config, untrained_run, write_weights


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(registry.OBJECTIVES, "toy", "tests.toy")


def start(source, config=None):
    config = config or toy_config()
    init = InitConfig.model_validate({"from": str(source)})
    objective = build_objective(config)
    return objective, initialize(objective, config.model_copy(update={"init": init}))


def file_of(run):
    return run / "checkpoints" / "step-000000006" / "model.safetensors"


def exported(run, out, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mae.export.folder.check_export", lambda *_: 0.0)  # tested elsewhere
        arguments = ["export", str(run), str(out), "--format", "plain", "--images", "noise"]
        assert main(arguments) == 0
    return out


@pytest.mark.parametrize("place", ["run", "checkpoint", "export"])
def test_all_weights_come_from_a_run_or_a_plain_export(tmp_path, monkeypatch, place):
    run = untrained_run(tmp_path / "run", toy_config())
    weights = load_file(file_of(run))
    weights["center"] += 3.0
    write_weights(run, weights)
    source = {"run": run, "checkpoint": file_of(run).parent}.get(place)
    source = source or exported(run, tmp_path / "out", monkeypatch)
    objective, done = start(source)
    assert same_weights(objective.state_dict(), weights)
    assert done.lines == [f"init    8 of 8 tensors from {source}"]
    record = json.loads(json.dumps(done.record))
    assert (record["from"], record["keys_loaded"]) == (str(source), 8)
    assert record["skipped"] == {} and record["kept"] == [] and len(record["sha256"]) == 64
    assert record["history"].startswith("toy of `gone.tar`, 48 images seen in 6 steps")
    assert record["from_scratch"] is (place != "export")


def test_averaged_weights_are_taken(tmp_path):
    run = untrained_run(tmp_path / "run", toy_config(train=TrainConfig(ema=0.5)))
    objective, done = start(run)
    weights = load_file(file_of(run))
    found = objective.state_dict()
    assert torch.equal(found["decoder.bias"], weights["average.decoder.bias"])
    assert torch.equal(found["center"], weights["center"])
    assert done.lines[1] == (
        "init    the averaged weights (average.*) are loaded, as in its evaluation"
    )


def test_after_load_follows(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("tests.toy.implementation.Toy.after_load", lambda self: called.append(self))
    objective, _ = start(untrained_run(tmp_path / "run", toy_config()))
    assert called == [objective]


def test_a_licence_is_carried_along(tmp_path):
    run = untrained_run(tmp_path / "run", toy_config())
    record = {"license": "cc-by-nc-4.0", "non_commercial": True}
    (run / "init.json").write_text(json.dumps(record))
    _, done = start(run)
    assert "licence CC-BY-NC-4.0: not for commercial use" in done.lines[-1]
    assert done.record["license"] == "cc-by-nc-4.0" and done.record["non_commercial"]


@pytest.mark.parametrize("source", ["mae run", "mae export", "timm export", "file", "nothing"])
def test_another_source_is_refused_in_one_line(tmp_path, monkeypatch, source):
    run = untrained_run(tmp_path / "run", tiny_config())
    place, what = tmp_path / "nix", "no folder"
    if source == "mae run":
        place, what = run, "of objective mae"
    elif source == "mae export":
        place, what = exported(run, tmp_path / "out", monkeypatch), "of objective mae"
    elif source == "timm export":
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "config.json").write_text('{"architecture": "vit_tiny_patch16_224"}')
        place, what = tmp_path / "out", "neither"
    elif source == "file":
        place, what = file_of(run), "neither"
    with pytest.raises(UserError) as error:
        start(place)
    assert str(error.value) == (
        "init.from: objective toy starts from a run of its own or a plain export, "
        f"{place} is {what}"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.bias"), "lacks decoder.bias of this model: set model.*"),
        (lambda t: t.update(extra=torch.ones(1)), ": extra has no place in this model"),
        (lambda t: t.update(center=torch.ones(5)), "center has shape [5], the model's has [4]"),
        (lambda t: t["center"].fill_(torch.nan), "damaged: center holds numbers that are not fin"),
        (lambda t: t.update(center=torch.ones(4, dtype=torch.int8)), "center holds int8, the mode"),
    ],
    ids=["missing", "unknown", "shape", "not finite", "type"],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path, change, message):
    run = untrained_run(tmp_path / "run", toy_config())
    weights = load_file(file_of(run))
    change(weights)
    write_weights(run, weights)
    config = toy_config(init=InitConfig.model_validate({"from": str(run)}))
    objective = build_objective(config)
    with pytest.raises(UserError) as error:
        initialize(objective, config)
    assert str(error.value).startswith(f"init.from: {run}") and message in str(error.value)
    assert "\n" not in str(error.value)
    assert same_weights(objective.state_dict(), build_objective(config).state_dict())


@pytest.mark.parametrize("config", [tiny_config(), classifier_config()], ids=["mae", "classifier"])
@pytest.mark.parametrize("is_export", [False, True])
def test_an_encoder_of_timm_s_starts_from_nothing_else(tmp_path, monkeypatch, config, is_export):
    source = untrained_run(tmp_path / "run", toy_config())
    if is_export:
        source = exported(source, tmp_path / "out", monkeypatch)
    with pytest.raises(UserError) as error:
        start(source, config)
    assert str(error.value) == (
        f"init.from: {source}: is of objective toy, which has no timm encoder"
    )
