"""Fine-tuned runs as sources: the averaged weights, and the norm that is of another kind."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mae.base.errors import UserError
from mae.config.sections import InitConfig
from mae.objectives.classifier.model import Classifier
from mae.pretrained_weights.sources import find_weights
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
def test_the_averaged_weights_of_a_classifier_are_taken(tmp_path, prefix):
    """By pretraining, which can go on from a classifier of the class token."""
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
        f"init    30 of 30 encoder tensors from {run} (left out: the weights that were averaged "
        f"(32 tensors); {prefix}head.bias, {prefix}head.weight: a head)"
    )
    note = "the averaged weights (average.*) are taken: those it is judged by"
    assert done.lines[1] == f"init    {note}"
    assert done.record["notes"][0] == note
    assert json.loads(json.dumps(done.record)) == done.record


def test_without_an_average_nothing_is_said_of_one(tmp_path):
    run = untrained_run(tmp_path / "run", classifier_config("token", ema=0))
    _, done = start(tiny_config(), run)
    assert "averaged" not in "".join(done.lines)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_classifier_of_the_same_pooling_gives_its_last_norm(tmp_path, ema):
    run = untrained_run(tmp_path / "run", classifier_config("avg", ema))
    objective, done = start(classifier_config("avg"), run)
    assert isinstance(objective, Classifier)
    part = "average.encoder" if ema else "encoder"
    for name in ("fc_norm.weight", "fc_norm.bias"):
        own = objective.encoder.state_dict()[name]
        assert torch.equal(own, weights_of(run)[f"{part}.{name}"])
    assert done.record["kept"] == ["head.weight", "head.bias"]


@pytest.mark.parametrize("target", [tiny_config(), classifier_config("token")])
def test_the_norm_of_a_mean_is_none_of_tokens(tmp_path, target):
    run = untrained_run(tmp_path / "run", classifier_config("avg"))
    with pytest.raises(UserError) as told:
        start(target, run)
    assert str(told.value).startswith(f"init.from: {run} is a classifier that pools by the mean")
    assert str(told.value).endswith("give the run that it was fine-tuned from")
    assert "\n" not in str(told.value)


def test_many_tensors_left_out_are_named_by_what_they_are(tmp_path):
    run = untrained_run(tmp_path / "run", tiny_config())
    _, done = start(classifier_config("token"), run)
    (line, *_) = done.lines
    assert line.endswith("encoder tensors from " + f"{run} (left out: the decoder (20 tensors))")
    assert len(done.record["left_out"]) == 20
    assert all(key.startswith("decoder.") for key in done.record["left_out"])
    # with a mean there are two norms of the name: the encoder's stays told beside the decoder's
    _, done = start(classifier_config("avg"), run)
    assert done.record["left_out"]["norm.weight"] == "the norm of another pooling"
    assert done.record["left_out"]["decoder.norm.weight"] == "the decoder"


def test_find_weights_of_a_checkpoint_file(tmp_path):
    """The file alone is a source too, and the averaged weights are in it."""
    run = untrained_run(tmp_path / "run", classifier_config("token"))
    (file,) = (run / "checkpoints").glob("step-*/model.safetensors")
    assert find_weights(str(file)).notes
