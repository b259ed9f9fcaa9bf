"""Weights, their average and optimizer state from a checkpoint, for any number of processes."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from mae.base.errors import UserError
from mae.objectives.base import Objective
from mae.training.average import Average
from mae.training.checkpoint import MOMENTS, WEIGHTS, unreadable
from mae.training.gradients import local
from mae.training.snapshot import AVERAGE, GROUP, GROUP_STATE, NUMBERS, shard_like

TYPES = {kind.__name__: kind for kind in NUMBERS}


def load_model(path: Path, model: nn.Module, *, averaged: bool = False) -> None:
    """Load the weights; every tensor of model and file must match.

    `averaged`: the averaged ones instead, where the file has them: for evaluation and export.
    Every process reads the file; of a sharded model it takes its own part.
    """
    own = model.state_dict()
    try:
        tensors = load_file(path / WEIGHTS)
        averages = {name: tensors.pop(key) for name, key in _averaged(tensors, own).items()}
        if averaged:
            tensors |= averages
        parts = {name: shard_like(tensor, own.get(name)) for name, tensor in tensors.items()}
        model.load_state_dict(parts, strict=True)
        if isinstance(model, Objective):
            model.after_load()
    except OSError as error:
        raise unreadable(path / WEIGHTS, error) from None
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: the weights do not fit this model: {reason}") from None


def _averaged(names: Iterable[str], own: Mapping[str, object]) -> dict[str, str]:
    """Weight → the name of its average in a file.

    A model may itself have a part of the name `average`, whose weights these are not.  Earlier
    versions averaged the encoder alone, and left its name out.
    """
    averages = {}
    for key in names:
        if key.startswith(AVERAGE) and key not in own:
            name = key.removeprefix(AVERAGE)
            of_encoder = f"encoder.{name}"
            averages[of_encoder if name not in own and of_encoder in own else name] = key
    return averages


def load_average(path: Path, model: nn.Module, average: Average | None) -> None:
    """Load the moving average of the weights, to go on with it.

    UserError where the file has none but the run does, or the reverse, or where it is of other
    weights.
    """
    try:
        with safe_open(path / WEIGHTS, "pt") as file:
            found = _averaged(file.keys(), model.state_dict())
            if bool(found) != (average is not None):
                there = "a moving average" if found else "no moving average"
                wanted = "0" if found else "above 0"
                raise UserError(
                    f"{path}: holds {there} of the weights, but train.ema is {wanted}: resume "
                    "with train.ema as it was, or start a new run (init.from takes the weights)"
                )
            if average is None:
                return
            own = average.tensors()
            if odd := set(found) ^ own.keys():
                raise UserError(f"{path}: the averaged weights do not fit this model: {min(odd)}")
            for name, tensor in own.items():
                whole = file.get_tensor(found[name])
                if whole.shape != tensor.shape or whole.dtype != tensor.dtype:
                    is_not = f"{list(whole.shape)}, not {list(tensor.shape)}"
                    raise UserError(f"{path}: {found[name]} has shape {is_not}")
                local(tensor).copy_(local(shard_like(whole, tensor)))
    except OSError as error:
        raise unreadable(path / WEIGHTS, error) from None
    except SafetensorError as error:
        reason = f"{WEIGHTS} is not readable: {error}"
        raise UserError(f"{path}: the weights do not fit this model: {reason}") from None


def load_optimizer(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Load the optimizer's state; every trainable parameter must have its own.

    A sharded model takes its own part; it must be sharded by now, and `optimizer` be its own.
    """
    try:
        tensors = load_file(path / MOMENTS)
    except OSError as error:
        raise unreadable(path / MOMENTS, error) from None
    except SafetensorError as error:
        raise UserError(f"{path}: {MOMENTS} is not readable: {error}") from None
    names = {parameter: name for name, parameter in model.named_parameters()}
    packed = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, group in enumerate(packed["param_groups"]):
        for key in [key for key in tensors if key.endswith(f"/{GROUP}{number}")]:
            group[GROUP_STATE] = _value(key.partition("/")[0], tensors.pop(key))[1]
    kinds = {key.partition("/")[0] for key in tensors}

    def take(kind: str, parameter: nn.Parameter) -> tuple[str, object]:
        key = f"{kind}/{names[parameter]}"
        whole = tensors.pop(key)
        if not whole.ndim:  # a count of steps
            return _value(kind, whole)
        if whole.shape != parameter.shape:
            shapes = f"{list(whole.shape)}, not {list(parameter.shape)}"
            raise UserError(f"{path}: {MOMENTS}: {key} has shape {shapes}")
        return kind, shard_like(whole, parameter)

    try:
        packed["state"] = {
            number: dict(take(kind, parameter) for kind in kinds)
            for number, parameter in enumerate(parameters)
        }
    except KeyError as error:
        raise UserError(f"{path}: {MOMENTS} lacks {error}") from None
    if tensors:
        raise UserError(f"{path}: {MOMENTS} holds unknown {next(iter(tensors))}")
    optimizer.load_state_dict(packed)


def _value(kind: str, tensor: Tensor) -> tuple[str, object]:
    """Kind and value as the optimizer has them: of `step:int` a number of Python."""
    kind, _, name = kind.partition(":")
    return kind, TYPES[name](tensor.item()) if name in TYPES else tensor
