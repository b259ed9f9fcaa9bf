"""Weights that were found, whatever they were found as."""

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
    """What shapes of tensors do not tell; None: the source does not say."""

    num_heads: int | None = None
    """attention heads of the encoder"""
    grid: tuple[int, int] | None = None
    """rows and columns of patches"""
    decoder_num_heads: int | None = None
    eps: float | None = None
    """of the LayerNorms"""
    activation: str | None = None
    """of the MLPs, as `activation_of` names it"""


class Normalisation(NamedTuple):
    """Of the images that weights were trained on, one number per channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Weights(NamedTuple):
    """One model's, in our names."""

    name: str
    """the source, as it was written"""
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]
    """empty where there is none"""
    skipped: dict[str, str]
    """tensors that are neither: why, by their own names"""
    notes: tuple[str, ...]
    """which of several were taken"""
    geometry: Geometry
    sha256: str
    """of the file; for timm's names of the tensors, written as a safetensors file"""
    licence: Licence
    normalisation: Normalisation | None = None
    """None: the source does not say"""
    history: str | None = None
    """what the training was, of a run"""


PICKLED = (".pth", ".pt", ".bin")
ENDINGS = (".safetensors", *PICKLED)
CONTAINERS = ("model", "state_dict", "model_state_dict")
"""where training scripts keep the weights beside optimizer, epoch and so on"""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` file, or of a state dict that torch saved, on the CPU.

    Raises UserError where the file is damaged, holds no weights, or holds more than data.
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
    """Of the file's bytes, as sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpickled_data(path: Path) -> Any:
    """What torch saved, by torch's own reader of plain data, which calls nothing it finds.

    The command line, an `argparse.Namespace`, lies beside the weights in many checkpoints.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on versions of the format: it can be read, or not
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # torch has looked for the end of the archive before the beginning of the file
        raise UserError(f"init.from: {path}: damaged: it ends too early") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"init.from: {path}: no file of torch, or one that holds code besides weights; "
            "nothing of it was run (save the state dict alone, or as safetensors)"
        ) from None
    except Exception as error:  # damaged bytes mislead the reader anywhere
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
