"""Files of weights (safetensors, or a state dict saved by torch), and loaded weights as types."""

import argparse
import errno
import hashlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mae.base.errors import UserError
from mae.pretrained_weights.licence import Licence


class Geometry(NamedTuple):
    """Properties of a model that its tensors' shapes do not determine; None: unknown."""

    num_heads: int | None = None
    """attention heads of the encoder"""
    grid: tuple[int, int] | None = None
    """rows and columns of patches"""
    decoder_num_heads: int | None = None
    """attention heads of the decoder"""
    eps: float | None = None
    """epsilon of the LayerNorms"""
    activation: str | None = None
    """activation of the MLPs, as named by `activation_of`"""


class Normalisation(NamedTuple):
    """Mean and std of the images for training, per channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Weights(NamedTuple):
    """Weights of one model under our names, with all that is known about their source."""

    name: str
    """the source, as the user wrote it"""
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]
    """empty where there is none"""
    skipped: dict[str, str]
    """name in the source → reason, for all other tensors"""
    notes: tuple[str, ...]
    """lines for the user on the choice among several sets of weights"""
    geometry: Geometry
    sha256: str
    """digest of the file; of `timm:NAME`, of its tensors written as a safetensors file"""
    licence: Licence
    normalisation: Normalisation | None = None
    """None: unknown"""
    history: str | None = None
    """description of the training, where the source is a run"""


PICKLED = (".pth", ".pt", ".bin")
ENDINGS = (".safetensors", *PICKLED)
CONTAINERS = ("model", "state_dict", "model_state_dict")
"""keys of the weights in checkpoints that hold optimizer, epoch and so on as well"""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a `.safetensors` file or a state dict saved by torch, to the CPU.

    Raises UserError where the file is damaged, holds no weights, or holds pickled code.
    """
    if path.suffix not in ENDINGS:
        raise UserError(f"init.from: {path}: files of weights end with {', '.join(ENDINGS)}")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _unpickled_data(path)
    except OSError as error:
        raise UserError(f"init.from: {path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"init.from: {path}: damaged, or no safetensors file: {error}") from None
    tensors = _state_dict(found)
    if not tensors:
        raise UserError(f"init.from: {path}: holds no weights{_contents(found)}")
    return tensors


def sha256_of(path: Path) -> str:
    """SHA-256 digest of a file, as sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpickled_data(path: Path) -> Any:
    """Content of a file saved by torch; torch's `weights_only` reader runs no code in it.

    Many checkpoints hold the command line too, an `argparse.Namespace`.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on versions of the format; errors are handled below
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # torch has sought the archive's end before the start of the file
        raise UserError(f"init.from: {path}: damaged: it ends too early") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"init.from: {path}: not saved by torch, or holds code besides weights; no code was "
            "run (save the state dict alone, or as safetensors)"
        ) from None
    except Exception as error:  # damaged bytes raise errors of any type
        reason = " ".join(str(error).split())
        reason = reason.partition(". ")[0] or "it ends too early"
        raise UserError(f"init.from: {path}: damaged: {reason}") from None


def _state_dict(found: Any) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        return {}
    for key in CONTAINERS:
        if isinstance(found.get(key), Mapping):
            return _state_dict(found[key])
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def _contents(found: Any) -> str:
    keys = ", ".join(map(str, list(found)[:5])) if isinstance(found, Mapping) else ""
    return f" (but {keys})" if keys else ""
