"""Format plain, for any objective: all weights under their own names, and the run's settings."""

import hashlib
import json
import sys
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mae.base.files import save_tensors
from mae.base.redaction import redacted
from mae.config.sections import Config, DataConfig
from mae.data.class_names import write_class_names
from mae.data.images import float_normalisation
from mae.data.views import evaluation_view
from mae.decoding.pixels import white_of
from mae.export.contract import ExportFiles, ExportRequest, refuse_options, weights
from mae.export.reading import ARRAY, PHOTOGRAPH, PICTURE, is_picture
from mae.objectives import registry
from mae.objectives.base import Features, Objective
from mae.pretrained_weights.init_record import shown_source
from mae.training.checkpoint.checkpoint_files import WEIGHTS
from mae.training.checkpoint.trained import keep_first_stage, load_plain, write_description

FILES = f"""\
`{WEIGHTS}` holds all weights, under their names in this package; `config.json` holds the settings
of the run, from which the model is built."""

CODE = """\
from pathlib import Path

{imports}from mae.data.views import evaluation_view
from mae.decoding.decode import decode
from mae.training.checkpoint.trained import load_plain

config, objective, state = load_plain("FOLDER")
file = Path("{file}")
image = decode(file.read_bytes(), file.suffix[1:], config.data.in_chans, config.data.bits)
{normalise}images = evaluation_view(image, objective.img_size, config)[None]
features = objective.encode(images)  # of {values} [1, {channels}, {height}, {width}]
"""

FLOATS = "Images come as floats, [channels, height, width], normalised by mean and std below."
IMPORTS = "from mae.data.images import float_normalisation\n"
NORMALISE = "image = float_normalisation(config.data).of(image)\n"
IMAGES = "Images come as integers of {bits} bits, from black, 0, to white, {white}."


def write_plain(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write config.json and model.safetensors; the check rebuilds the objective from these alone.

    Raises UserError for options that choose a part of the model.
    """
    refuse_options(
        request,
        "plain",
        {
            "--pool": "it exports the model, not one of its vectors",
            "--no-decoder": "it exports all weights",
        },
    )
    tensors = {name: tensor.clone() for name, tensor in weights(request.model).items()}
    save_tensors(tensors, folder / WEIGHTS, {"format": "pt"})
    if request.classes:
        write_class_names(request.classes.names, folder)
    write_description(folder, without_local_paths(request.config), request.state)
    keep_first_stage(request.model, folder)
    data = request.config.data
    package = registry.OBJECTIVES[request.config.objective]
    return ExportFiles(
        inputs={"images": images},
        expected=encode_all(request.model, images) | _expected_view(request),
        tolerance=1e-6,
        reader="mae",
        files=FILES,
        code=code_of(request),
        loader=load_written,
        library="pytorch",
        part="model",
        settings={
            "digests": json.dumps(digests(tensors)),
            # A fresh process has this package's own objectives only.
            "objective": request.config.objective,
            "package": package,
            "root": str(import_root(package)),
        },
        images=FLOATS
        if data.is_float
        else IMAGES.format(bits=data.bits, white=white_of(data.bits)),
    )


def code_of(request: ExportRequest) -> str:
    """Example in Python: load the folder, read an image, use the model."""
    data, (height, width) = request.config.data, request.model.img_size
    code = CODE.format(
        file=PICTURE if is_picture(data) else ARRAY,
        channels=data.in_chans,
        height=height,
        width=width,
        imports=IMPORTS if data.is_float else "",
        normalise=NORMALISE if data.is_float else "",
        values="normalised floats" if data.is_float else "integers",
    )
    declared = registry.declaration(request.config.objective)
    further = declared.card(request.config, is_from_scratch=True).code
    if "torch." in further:
        code = code.replace("\n\n", "\n\nimport torch\n\n", 1)
    return code + further


def _expected_view(request: ExportRequest) -> dict[str, Tensor]:
    if request.photograph is None:
        return {}
    image = float_normalisation(request.config.data).of(request.photograph)
    view = evaluation_view(image, request.model.img_size, request.config)
    return {PHOTOGRAPH: view[None]}


def load_written(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Features of the objective built from the folder; ValueError for a tensor that has changed."""
    found, written = digests(load_file(folder / WEIGHTS)), json.loads(settings["digests"])
    if odd := sorted(k for k in found.keys() | written.keys() if found.get(k) != written.get(k)):
        raise ValueError(f"{odd[0]} differs from the written tensor")
    if settings["objective"] not in registry.OBJECTIVES:
        sys.path.append(settings["root"])
        registry.OBJECTIVES[settings["objective"]] = settings["package"]
    _, objective, _ = load_plain(folder)
    return encode_all(objective, inputs["images"])


@torch.no_grad()
def encode_all(objective: Objective, images: Tensor) -> dict[str, Tensor]:
    """Features of raw images [b c h w] by name, as `encode` computes them."""
    features: Features = objective.encode(images)
    found = {f"features.{name}": vector for name, vector in features.pooled.items()}
    return found | ({} if features.tokens is None else {"tokens": features.tokens})


def digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Type, shape and sha256 of each tensor."""
    return {
        name: f"{tensor.dtype} {list(tensor.shape)} "
        + hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def import_root(package: str) -> Path:
    """Folder on Python's path that `package` is imported from."""
    file = import_module(package).__file__
    assert file is not None
    return Path(file).absolute().parents[package.count(".") + 1]


def without_local_paths(config: Config) -> Config:
    """Settings with local paths cut to their last part, and without cache folders."""
    data, default = config.data, DataConfig()
    mixture = [part.model_copy(update={"shards": _names(part.shards)}) for part in data.mixture]
    changed = {
        "train": _names(data.train),
        "val": _names(data.val),
        "mixture": tuple(mixture),
        "index_dir": default.index_dir,
        "cache_dir": default.cache_dir,
        "cache_gb": default.cache_gb,
        "packed_dir": default.packed_dir,
        "allow_pipe": default.allow_pipe,
    }
    source = {"from_": shown_source(config.init.from_)}
    paths = {key: Path(one.name) for key, one in config.model if isinstance(one, Path)}
    return config.model_copy(
        update={
            "output": Path(config.output).name,
            "data": data.model_copy(update=changed),
            "init": config.init.model_copy(update=source),
            "model": config.model.model_copy(update=paths),
        }
    )


def _names(shards: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(Path(redacted(pattern)).name for pattern in shards)
