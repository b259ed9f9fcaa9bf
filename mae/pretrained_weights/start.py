"""First weights of a Vision Transformer of timm's, for any objective that has one."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.base.errors import UserError
from mae.base.files import read_json
from mae.config.sections import Config, DataConfig, InitConfig
from mae.objectives.base import Objective
from mae.objectives.registry import implementation
from mae.pretrained_weights.description import told_difference
from mae.pretrained_weights.files import Weights, read_tensors, sha256_of
from mae.pretrained_weights.fit import Loaded, load_encoder, shapes, some
from mae.pretrained_weights.licence import licence_in
from mae.pretrained_weights.names import averages_first
from mae.pretrained_weights.record import Initial, Source, history_of, initial_of
from mae.pretrained_weights.sources import Trained, find_trained, find_weights
from mae.training.checkpoint.files import checkpoints
from mae.training.checkpoint.run import Run

FRESH = ("head.", "fc_norm.")
"""what a classifier adds to the encoder; `fc_norm` is taken where the source has it"""


def start_encoder(
    objective: Objective,
    encoder: VisionTransformer,
    init: InitConfig,
    data: DataConfig,
    load_decoder: Callable[[Weights], Loaded] | None = None,
) -> Initial:
    """Load what `init` names into `encoder`, a part of `objective`, and call `after_load`.

    `load_decoder` loads the source's decoder, or says why not.  `data` says how the run
    normalises images, which is noted where the source had it otherwise.  Raises UserError as
    `find_weights` and `load_encoder`.
    """
    weights = find_weights(init.from_)
    loaded = load_encoder(
        encoder,
        weights,
        adapt_channels=init.adapt_channels,
        adapt_size=init.adapt_size,
        fresh=[key for key in encoder.state_dict() if key.startswith(FRESH)],
    )
    parts = {"encoder": loaded}
    skipped = {f"decoder.{key}": "the decoder" for key in weights.decoder}
    if load_decoder:
        decoder = load_decoder(weights)
        skipped = decoder.skipped
        if decoder.tensors:
            parts["decoder"] = decoder
    objective.after_load()
    notes = [*weights.notes, *loaded.notes, *told_difference(weights.normalisation, data)]
    return initial_of(
        Source(weights.name, weights.sha256, weights.licence, weights.history),
        parts,
        loaded.skipped | skipped,
        [key for key in loaded.kept if key.startswith(FRESH)],
        notes,
    )


class Whole(NamedTuple):
    """All weights of a model of ours, under their own names."""

    tensors: dict[str, Tensor]
    trained: Trained
    notes: tuple[str, ...]


def start_whole(objective: Objective, name: str, init: InitConfig) -> Initial:
    """Load all weights that `init` names into `objective`, which is called `name`.

    Raises UserError where the source is of another objective, or a tensor is missing, has no
    place, has another shape or type, or is not finite.
    """
    found = _find(init.from_, name)
    where, own = f"init.from: {init.from_}", objective.state_dict()
    _check(found.tensors, own, where)
    objective.load_state_dict(found.tensors, strict=True)
    objective.after_load()
    trained = found.trained
    licence = licence_in(trained.folder, init.from_)
    record = read_json(trained.folder / "init.json")
    history = history_of(trained.config, trained.state, record)
    loaded = Loaded(len(own), len(own), (), {}, ())
    source = Source(init.from_, sha256_of(trained.file), licence, history)
    return initial_of(source, {"": loaded}, {}, [], found.notes)


def _find(source: str, name: str) -> Whole:
    needed = f"init.from: objective {name} starts from a run of its own or a plain export"
    trained = find_trained(source)
    if trained is None:
        path = Path(source).expanduser()
        what = "neither" if path.exists() else "no folder"
        raise UserError(f"{needed}, {source} is {what}")
    if trained.config.objective != name:
        raise UserError(f"{needed}, {source} is of objective {trained.config.objective}")
    averages = averages_first(read_tensors(trained.file))
    return Whole(averages.tensors, trained, averages.notes)


def _check(source: dict[str, Tensor], own: dict[str, Tensor], where: str) -> None:
    """UserError unless both have the same names, shapes and types, and all numbers are finite."""
    hint = "set model.* as it was in that run"
    if missing := [key for key in own if key not in source]:
        raise UserError(f"{where} lacks {some(missing)} of this model: {hint}")
    if unknown := [key for key in source if key not in own]:
        raise UserError(f"{where}: {some(unknown)} has no place in this model: {hint}")
    for key, tensor in source.items():
        if tensor.shape != own[key].shape:
            raise UserError(f"{where}: {shapes(key, tensor, own[key])}: {hint}")
        if tensor.is_floating_point() != own[key].is_floating_point():
            kinds = (str(one.dtype).removeprefix("torch.") for one in (tensor, own[key]))
            raise UserError("{}: {} holds {}, the model's {}".format(where, key, *kinds))
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{where}: damaged: {key} holds numbers that are not finite")


def start_from_weights(
    config: Config, objective: Objective, run: Run, accelerator: Accelerator
) -> Initial | None:
    """Load `init.from` into `objective`; None without it, or where the run goes on.

    All processes call it, before the model is wrapped.  A run with a checkpoint has weights of
    its own, and needs the source no more.  Raises UserError as `initialize`.
    """
    if not config.init.from_:
        return None
    # Files may show late on another machine: the first process sees for all.
    if broadcast_object_list([bool(checkpoints(run.checkpoints))])[0]:
        return None
    with accelerator.main_process_first():  # the first to come downloads, the others find it
        return initialize(objective, config)


def initialize(objective: Objective, config: Config) -> Initial:
    """Load what `config.init` names, as the objective does it or else all of its weights.

    Raises UserError where that is not to be had, or not all that it should be.
    """
    initial = implementation(config.objective).load_initial(objective, config)
    return initial or start_whole(objective, config.objective, config.init)
