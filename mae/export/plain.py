"""A folder of all weights under their own names, and the settings to build the model from."""

import hashlib
import json
import sys
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mae.config.sections import Config, DataConfig
from mae.export.subject import Subject, Written, refuse_options, weights
from mae.objectives import registry
from mae.objectives.base import Features, Objective
from mae.pretrained_weights.record import shown_source
from mae.training.checkpoint.files import WEIGHTS
from mae.training.checkpoint.trained import load_plain, write_description

FILES = f"""\
`{WEIGHTS}` holds all weights, under the names that they have here; `config.json` the settings of
the run, from which the model is built."""

CODE = """\
from mae.training.checkpoint.trained import load_plain

config, objective, position = load_plain("FOLDER")
features = objective.encode(images)  # integers [b, {channels}, {height}, {width}]
"""

IMAGES = "Images come as integers of {bits} bits, from black, 0, to white, {white}."


def write_plain(folder: Path, subject: Subject, images: Tensor) -> Written:
    """config.json and model.safetensors; the check rebuilds the objective from these alone."""
    refuse_options(
        subject,
        "plain",
        {"--pool": "it holds the model, not one of its vectors", "--no-decoder": "it holds all"},
    )
    tensors = {name: tensor.clone() for name, tensor in weights(subject.model).items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    write_description(folder, without_position_mean(subject.config), subject.state)
    bits, (height, width) = subject.config.data.bits, subject.model.img_size
    package = registry.OBJECTIVES[subject.config.objective]
    return Written(
        given={"images": images},
        expected=expect_encoded(subject.model, images),
        tolerance=1e-6,
        reader="mae",
        files=FILES,
        code=CODE.format(channels=subject.config.data.in_chans, height=height, width=width),
        loader=load_written,
        library="pytorch",
        part="model",
        notes={
            "digests": json.dumps(digests(tensors)),
            # A fresh process knows the package's own objectives only.
            "objective": subject.config.objective,
            "package": package,
            "root": str(root_of(package)),
        },
        images=IMAGES.format(bits=bits, white=2**bits - 1),
    )


def load_written(
    folder: Path, given: dict[str, Tensor], notes: dict[str, str]
) -> dict[str, Tensor]:
    """Features of the objective that is built from the folder; ValueError for another tensor."""
    found, written = digests(load_file(folder / WEIGHTS)), json.loads(notes["digests"])
    if odd := sorted(k for k in found.keys() | written.keys() if found.get(k) != written.get(k)):
        raise ValueError(f"{odd[0]} is not what was written")
    if notes["objective"] not in registry.OBJECTIVES:
        sys.path.append(notes["root"])
        registry.OBJECTIVES[notes["objective"]] = notes["package"]
    _, objective, _ = load_plain(folder)
    return expect_encoded(objective, given["images"])


@torch.no_grad()
def expect_encoded(objective: Objective, images: Tensor) -> dict[str, Tensor]:
    """All that `encode` makes of raw images, by name."""
    features: Features = objective.encode(images)
    found = {f"features.{name}": vector for name, vector in features.pooled.items()}
    return found | ({} if features.tokens is None else {"tokens": features.tokens})


def digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Type, shape and sha256 of each tensor's numbers."""
    return {
        name: f"{tensor.dtype} {list(tensor.shape)} "
        + hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def root_of(package: str) -> Path:
    """The folder that `package` is imported from."""
    file = import_module(package).__file__
    assert file is not None
    return Path(file).absolute().parents[package.count(".") + 1]


def without_position_mean(config: Config) -> Config:
    """The settings without the folders of this machine, of which only the last names stay."""
    data, usual = config.data, DataConfig()
    mixture = [part.model_copy(update={"shards": _names(part.shards)}) for part in data.mixture]
    changed = {
        "train": _names(data.train),
        "val": _names(data.val),
        "mixture": tuple(mixture),
        "index_dir": usual.index_dir,
        "cache_dir": usual.cache_dir,
    }
    source = {"from_": shown_source(config.init.from_)}
    return config.model_copy(
        update={
            "output": Path(config.output).name,
            "data": data.model_copy(update=changed),
            "init": config.init.model_copy(update=source),
        }
    )


def _names(shards: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(Path(pattern).name for pattern in shards)
