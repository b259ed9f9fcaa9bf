"""Fine-tuned runs as sources: averaged weights, and the final norm of another pooling."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mae.base.errors import UserError
from mae.config.sections import InitConfig
from mae.objectives.classifier.model import Classifier
from mae.pretrained_weights.find import find_weights
from mae.pretrained_weights.start import initialize
from mae.training.checkpoint.trained import build_objective
from tests.untrained import classifier_config, earlier_layout, tiny_config, untrained_run


def start(config, source):
    objective = build_objective(config)
    init = InitConfig.model_validate({"from": str(source)})
    done = initialize(objective, config.model_copy(update={"init": init}))
    return objective, done


def weights_of(run):
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.parametrize("prefix", ["average.encoder.", "average."])
def test_averaged_weights_of_a_classifier_are_loaded(tmp_path, prefix):
    """Pretraining can start from a classifier of the class token."""
    run = untrained_run(tmp_path / "run", classifier_config("token"))
    if prefix == "average.":
        earlier_layout(run)
    objective, done = start(tiny_config(), run)
    tensors = weights_of(run)
    for key, tensor in objective.state_dict().items():
        if key.startswith("encoder."):
            averaged = tensors[f"{prefix}{key.removeprefix('encoder.')}"]
            assert torch.equal(tensor, averaged), key
            assert not torch.equal(tensor, tensors[key]) or "pos_embed" in key, key
    assert done.lines[0] == (
        f"init    30 of 30 encoder tensors from {run} (skipped: the weights that were averaged "
        f"(32 tensors); {prefix}head.bias, {prefix}head.weight: a head)"
    )
    note = "the averaged weights (average.*) are loaded, as in its evaluation"
    assert done.lines[1] == f"init    {note}"
    assert done.record["notes"][0] == note
    assert json.loads(json.dumps(done.record)) == done.record


def test_no_note_without_ema(tmp_path):
    run = untrained_run(tmp_path / "run", classifier_config("token", ema=0))
    _, done = start(tiny_config(), run)
    assert "averaged" not in "".join(done.lines)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_final_norm_of_a_classifier_with_the_same_pooling_is_loaded(tmp_path, ema):
    run = untrained_run(tmp_path / "run", classifier_config("avg", ema))
    objective, done = start(classifier_config("avg"), run)
    assert isinstance(objective, Classifier)
    part = "average.encoder" if ema else "encoder"
    for name in ("fc_norm.weight", "fc_norm.bias"):
        own = objective.encoder.state_dict()[name]
        assert torch.equal(own, weights_of(run)[f"{part}.{name}"])
    assert done.record["kept"] == ["head.weight", "head.bias"]


@pytest.mark.parametrize("target", [tiny_config(), classifier_config("token")])
def test_final_norm_of_another_pooling_is_refused(tmp_path, target):
    run = untrained_run(tmp_path / "run", classifier_config("avg"))
    with pytest.raises(UserError) as error:
        start(target, run)
    assert str(error.value).startswith(f"init.from: {run} is a classifier that pools by the mean")
    assert str(error.value).endswith("give the run that it was fine-tuned from")
    assert "\n" not in str(error.value)


def test_many_skipped_tensors_are_listed_by_reason(tmp_path):
    run = untrained_run(tmp_path / "run", tiny_config())
    _, done = start(classifier_config("token"), run)
    (line, *_) = done.lines
    assert line.endswith("encoder tensors from " + f"{run} (skipped: the decoder (20 tensors))")
    assert len(done.record["skipped"]) == 20
    assert all(key.startswith("decoder.") for key in done.record["skipped"])
    # encoder and decoder both have a skipped norm.weight: each is recorded under its own name
    _, done = start(classifier_config("avg"), run)
    assert done.record["skipped"]["norm.weight"] == "the norm of another pooling"
    assert done.record["skipped"]["decoder.norm.weight"] == "the decoder"


def test_find_weights_of_a_checkpoint_file(tmp_path):
    """A checkpoint's file is a source by itself, averaged weights included."""
    run = untrained_run(tmp_path / "run", classifier_config("token"))
    (file,) = (run / "checkpoints").glob("step-*/model.safetensors")
    assert find_weights(str(file)).notes
