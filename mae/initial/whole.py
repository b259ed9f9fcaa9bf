"""First weights of any objective: all of them, from a run of the same or a plain export of one."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mae.base.errors import UserError
from mae.base.files import read_json
from mae.config.sections import InitConfig
from mae.initial.adapt import shapes
from mae.initial.files import read_tensors, sha256_of
from mae.initial.fit import Loaded, some
from mae.initial.history import history_of
from mae.initial.licence import licence_in
from mae.initial.names import averages_first
from mae.initial.record import Initial, Source, initial_of
from mae.initial.sources import Trained, find_trained
from mae.objectives.base import Objective


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
    history = history_of(trained.config, trained.position, record)
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
    advice = "set model.* as it was in that run"
    if missing := [key for key in own if key not in source]:
        raise UserError(f"{where} lacks {some(missing)} of this model: {advice}")
    if unknown := [key for key in source if key not in own]:
        raise UserError(f"{where}: {some(unknown)} has no place in this model: {advice}")
    for key, tensor in source.items():
        if tensor.shape != own[key].shape:
            raise UserError(f"{where}: {shapes(key, tensor, own[key])}: {advice}")
        if tensor.is_floating_point() != own[key].is_floating_point():
            kinds = (str(one.dtype).removeprefix("torch.") for one in (tensor, own[key]))
            raise UserError("{}: {} holds {}, the model's {}".format(where, key, *kinds))
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{where}: damaged: {key} holds numbers that are not finite")
