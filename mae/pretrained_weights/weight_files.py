"""Files of weights (safetensors, or a state dict saved by torch), and loaded weights as types."""

import argparse
import errno
import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
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
    beyond_tensors: Mapping[str, Any] | None = None
    """options that change the outputs, as `EncoderAdapter.beyond_tensors`"""
    patch_size: tuple[int, int] | None = None
    """height and width in pixels; None: those of the projection's kernel"""
    position_grid: tuple[int, int] | None = None
    """rows and columns of the absolute positions; None: those of the patches"""


class Normalisation(NamedTuple):
    """Mean and std of the images for training, per channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Architecture(NamedTuple):
    """Model of timm, by its name and arguments."""

    name: str
    arguments: dict[str, Any]
    global_pool: str = "token"
    """input of the head: token, avg …"""


class Weights(NamedTuple):
    """Weights of one model under our names, with all that is known about their source."""

    name: str
    """the source, as the user wrote it"""
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]
    """empty where there is none"""
    head: dict[str, Tensor]
    """`head.weight`, `head.bias` and so on; empty where there is no classifier"""
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
    architecture: Architecture | None = None
    """None: only the tensors' shapes are known"""
    settings: Mapping[str, Any] = {}
    """recorded settings of the training, such as norm_pix_loss and mask_ratio"""
    crop_pct: float | None = None
    """centre crop's side as a fraction of the resized short side; None: unknown"""
    class_names: tuple[str, ...] = ()
    """names in the order of the head's outputs; empty: unknown"""


PICKLED = (".pth", ".pt", ".bin")
ENDINGS = (".safetensors", *PICKLED)
CONTAINERS = ("model", "state_dict", "model_state_dict", "model_state")
"""keys of the weights in checkpoints that hold optimizer, epoch and so on as well"""
ARGUMENTS = "args"
"""key of the training's settings: an `argparse.Namespace`, or a dictionary"""


class Ignored:
    """Stand-in for an object in a checkpoint that is data, but neither a weight nor a setting."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Ignore the object's content."""


PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
DATA = (
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in PATHS),
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    *(f"numpy.{name}" for name in ("dtype", "ndarray")),
    *(f"datetime.{name}" for name in ("datetime", "date", "timedelta", "timezone")),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("range", "slice")),
    *(f"{module}.frozenset" for module in ("builtins", "__builtin__")),
    "_codecs.encode",
    "types.SimpleNamespace",
)
"""classes and functions that checkpoints name beside their weights; none of them is run, since
`Ignored` stands in for each"""
SAFE: list[Any] = [argparse.Namespace, *((Ignored, name) for name in DATA)]

UNKNOWN = re.compile(r"(?:GLOBAL|[Gg]lobal|class|instantiate|call) ([\w.]+\.\w+)")
"""matches the class or function that torch's reader refuses"""


class WeightsFile(NamedTuple):
    """Content of a file of weights."""

    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    """recorded settings of the training, as far as known: numbers and truth values"""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file of weights; raises UserError as `read_weights`."""
    return read_weights(path).tensors


def read_weights(path: Path) -> WeightsFile:
    """Read a `.safetensors` file or a state dict saved by torch, to the CPU.

    Raises UserError where the file is damaged, holds no weights, or holds pickled code.
    """
    if path.suffix not in ENDINGS:
        raise UserError(f"init.from: {path}: files of weights end with {', '.join(ENDINGS)}")
    try:
        if path.suffix == ".safetensors":
            found, settings = load_file(path), _metadata(path)
        else:
            found = _unpickled_data(path)
            settings = _settings(found)
    except OSError as error:
        raise UserError(f"init.from: {path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"init.from: {path}: damaged, or no safetensors file: {error}") from None
    tensors = _state_dict(found)
    if not tensors:
        raise UserError(f"init.from: {path}: holds no weights{_contents(found)}")
    return WeightsFile(tensors, settings)


def sha256_of(path: Path) -> str:
    """SHA-256 digest of a file, as sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_text(settings: Mapping[str, int | float | bool]) -> str:
    """Settings for the metadata of a safetensors file, which `read_weights` reads back."""
    return json.dumps(dict(settings))


def _metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(ARGUMENTS, "{}")
    try:
        return _settings({ARGUMENTS: json.loads(text)})
    except ValueError:
        return {}


def _settings(found: Any) -> dict[str, Any]:
    """Numbers and truth values among the recorded settings of a training."""
    recorded = found.get(ARGUMENTS) if isinstance(found, Mapping) else None
    values = vars(recorded) if isinstance(recorded, argparse.Namespace) else recorded
    if not isinstance(values, Mapping):
        return {}
    return {str(key): one for key, one in values.items() if isinstance(one, bool | int | float)}


def _unpickled_data(path: Path) -> Any:
    """Content of a file saved by torch; torch's `weights_only` reader runs no code in it.

    Many checkpoints hold the command line too, an `argparse.Namespace`.
    """
    try:
        with torch.serialization.safe_globals(SAFE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on versions of the format; errors are handled below
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # torch has sought the archive's end before the start of the file
        raise UserError(f"init.from: {path}: damaged: it ends too early") from None
    except pickle.UnpicklingError as error:
        unknown = UNKNOWN.search(str(error))
        what = f"holds a {unknown[1]}" if unknown else "not saved by torch, or holds code"
        raise UserError(
            f"init.from: {path}: {what} besides weights; no code was run (save the state dict "
            "alone, or as safetensors)"
        ) from None
    except Exception as error:  # damaged bytes raise errors of any type
        reason = " ".join(str(error).split())
        if "legacy .tar format" in reason:
            raise UserError(
                f"init.from: {path}: in the tar format of torch 0.1, which cannot be read without "
                "running code: save the state dict again, with a newer torch or as safetensors"
            ) from None
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
