"""Weights and optimizer state out of a checkpoint, into a model of any number of processes."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from mae.errors import UserError
from mae.training.checkpoint import MOMENTS, WEIGHTS, unreadable
from mae.training.snapshot import shard_like


def load_model(path: Path, model: nn.Module) -> None:
    """Load the weights; every tensor of model and file must match.

    Every process reads the file; of a sharded model it takes its own part.
    """
    own = model.state_dict()
    try:
        tensors = load_file(path / WEIGHTS)
        parts = {name: shard_like(tensor, own.get(name)) for name, tensor in tensors.items()}
        model.load_state_dict(parts, strict=True)
    except OSError as error:
        raise unreadable(path / WEIGHTS, error) from None
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
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
    kinds = {key.partition("/")[0] for key in tensors}

    def take(kind: str, parameter: nn.Parameter) -> Tensor:
        key = f"{kind}/{names[parameter]}"
        whole = tensors.pop(key)
        if not whole.ndim:  # a count of steps
            return whole
        if whole.shape != parameter.shape:
            shapes = f"{list(whole.shape)}, not {list(parameter.shape)}"
            raise UserError(f"{path}: {MOMENTS}: {key} has shape {shapes}")
        return shard_like(whole, parameter)

    try:
        packed["state"] = {
            number: {kind: take(kind, parameter) for kind in kinds}
            for number, parameter in enumerate(parameters)
        }
    except KeyError as error:
        raise UserError(f"{path}: {MOMENTS} lacks {error}") from None
    if tensors:
        raise UserError(f"{path}: {MOMENTS} holds unknown {next(iter(tensors))}")
    optimizer.load_state_dict(packed)
