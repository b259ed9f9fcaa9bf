"""Initial weights of an objective (`init.from`): of its timm encoder, or of the whole model."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from mae.base.errors import UserError
from mae.base.files import read_json
from mae.config.sections import Config, DataConfig, InitConfig
from mae.networks.encoders.registry import TimmEncoder, adapter_of
from mae.objectives.base import Objective
from mae.objectives.registry import implementation
from mae.pretrained_weights.description import normalisation_note
from mae.pretrained_weights.find import TrainedModel, find_trained_model, find_weights
from mae.pretrained_weights.fit import LoadedTensors, abbreviate, load_encoder, shape_mismatch
from mae.pretrained_weights.init_record import (
    InitialWeights,
    WeightsSource,
    history_of,
    record_initial_weights,
)
from mae.pretrained_weights.licence import folder_licence
from mae.pretrained_weights.names import prefer_averages
from mae.pretrained_weights.weight_files import Weights, read_tensors, sha256_of
from mae.training.checkpoint.checkpoint_files import checkpoints
from mae.training.checkpoint.run import Run


def start_encoder(
    objective: Objective,
    encoder: TimmEncoder,
    init: InitConfig,
    data: DataConfig,
    load_decoder: Callable[[Weights], LoadedTensors] | None = None,
) -> InitialWeights:
    """Load the weights of `init.from` into `encoder`, a part of `objective`.

    Args:
        objective: its `after_load` is called.
        encoder: timm encoder of `objective`.
        init: source, and permissions to adapt channels and sizes.
        data: settings of the data; a normalisation unlike the source's gets a note.
        load_decoder: loads the source's decoder; None: the objective has none.

    Raises UserError as `find_weights` and `load_encoder`.
    """
    weights = find_weights(init.from_)
    # Layers that a classifier adds; the norm of pooled tokens is loaded where the source has it.
    new_layers = (f"{adapter_of(encoder).head}.", "fc_norm.")
    loaded = load_encoder(
        encoder,
        weights,
        adapt_channels=init.adapt_channels,
        adapt_size=init.adapt_size,
        fresh=[key for key in encoder.state_dict() if key.startswith(new_layers)],
    )
    parts = {"encoder": loaded}
    skipped = {f"decoder.{key}": "the decoder" for key in weights.decoder}
    if load_decoder:
        decoder = load_decoder(weights)
        skipped = decoder.skipped
        if decoder.tensors:
            parts["decoder"] = decoder
    objective.after_load()
    notes = [*weights.notes, *loaded.notes, *normalisation_note(weights.normalisation, data)]
    return record_initial_weights(
        WeightsSource(weights.name, weights.sha256, weights.licence, weights.history),
        parts,
        loaded.skipped | skipped,
        [key for key in loaded.kept if key.startswith(new_layers)],
        notes,
    )


class ModelWeights(NamedTuple):
    """All weights of a run or a plain export, under their own names."""

    tensors: dict[str, Tensor]
    trained: TrainedModel
    notes: tuple[str, ...]


def start_from_model(objective: Objective, name: str, init: InitConfig) -> InitialWeights:
    """Load all weights of `init.from` into `objective`, which is called `name`.

    Raises UserError where the source is of another objective, or a tensor is missing, has no
    place, has another shape or type, or is not finite; but for `Objective.optional_weights`.
    """
    found = _find_model(init.from_, name)
    where, own = f"init.from: {init.from_}", objective.state_dict()
    optional = objective.optional_weights
    given = dict(found.tensors)
    kept = tuple(key for key in own if key not in given and key.startswith(optional))
    skipped = [key for key in given if key not in own and key.startswith(optional)]
    for key in skipped:
        del given[key]
    _check_tensors(given, {key: own[key] for key in own if key not in kept}, where)
    objective.load_state_dict(given, strict=False)
    objective.after_load()
    trained = found.trained
    licence = folder_licence(trained.folder, init.from_)
    record = read_json(trained.folder / "init.json")
    history = history_of(trained.config, trained.state, record)
    loaded = LoadedTensors(len(given), len(own), kept, {}, ())
    source = WeightsSource(init.from_, sha256_of(trained.file), licence, history)
    reasons = dict.fromkeys(skipped, "this model lacks them")
    return record_initial_weights(source, {"": loaded}, reasons, kept, found.notes)


def _find_model(source: str, name: str) -> ModelWeights:
    needed = f"init.from: objective {name} starts from a run of its own or a plain export"
    trained = find_trained_model(source)
    if trained is None:
        path = Path(source).expanduser()
        what = "neither" if path.exists() else "no folder"
        raise UserError(f"{needed}, {source} is {what}")
    if trained.config.objective != name:
        raise UserError(f"{needed}, {source} is of objective {trained.config.objective}")
    averages = prefer_averages(read_tensors(trained.file))
    return ModelWeights(averages.tensors, trained, averages.notes)


def _check_tensors(source: dict[str, Tensor], own: dict[str, Tensor], where: str) -> None:
    """UserError unless both have the same names, shapes and types, and all numbers are finite."""
    hint = "set model.* as it was in that run"
    if missing := [key for key in own if key not in source]:
        raise UserError(f"{where} lacks {abbreviate(missing)} of this model: {hint}")
    if unknown := [key for key in source if key not in own]:
        raise UserError(f"{where}: {abbreviate(unknown)} has no place in this model: {hint}")
    for key, tensor in source.items():
        if tensor.shape != own[key].shape:
            raise UserError(f"{where}: {shape_mismatch(key, tensor, own[key])}: {hint}")
        if tensor.is_floating_point() != own[key].is_floating_point():
            kinds = (str(one.dtype).removeprefix("torch.") for one in (tensor, own[key]))
            raise UserError("{}: {} holds {}, the model's {}".format(where, key, *kinds))
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{where}: damaged: {key} holds numbers that are not finite")


def start_from_weights(
    config: Config, objective: Objective, run: Run, accelerator: Accelerator
) -> InitialWeights | None:
    """Load `init.from` into `objective`; None without it, or where the run resumes.

    All processes call it, before the model is wrapped.  A run with a checkpoint no longer needs
    the source.  Raises UserError as `initialize`.
    """
    if not config.init.from_:
        return None
    # Files may appear late on other machines: the first process decides for all.
    if broadcast_object_list([bool(checkpoints(run.checkpoints))])[0]:
        return None
    with accelerator.main_process_first():  # the first downloads, the others use its cache
        return initialize(objective, config)


def initialize(objective: Objective, config: Config) -> InitialWeights:
    """Load the weights of `init.from` in the objective's own way, or else all of its weights.

    Raises UserError where the source cannot be loaded or does not fit the model.
    """
    initial = implementation(config.objective).load_initial(objective, config)
    return initial or start_from_model(objective, config.objective, config.init)
