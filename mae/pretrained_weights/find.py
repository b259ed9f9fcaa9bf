"""Sources of weights for `init.from`: run, checkpoint, folder, file, `timm:NAME`, `hf:ID`."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import save

from mae.base.errors import UserError
from mae.base.files import read_json
from mae.config.sections import Config
from mae.networks.encoders.registry import adapter_of, supported, usual_arguments
from mae.networks.vit import build_encoder
from mae.objectives.shared_sections import VitModel
from mae.pretrained_weights.description import (
    architecture_from_config,
    class_names_from_config,
    geometry_from_config,
    geometry_of,
    preprocessor_crop,
    preprocessor_normalisation,
    read_crop,
    read_normalisation,
    settings_from_config,
)
from mae.pretrained_weights.init_record import history_of
from mae.pretrained_weights.licence import Licence, file_licence, folder_licence, named_licence
from mae.pretrained_weights.names import ATTENTION_POOLING, to_our_names
from mae.pretrained_weights.weight_files import (
    ENDINGS,
    Architecture,
    Geometry,
    Normalisation,
    Weights,
    read_weights,
    sha256_of,
)
from mae.training.checkpoint.checkpoint_files import (
    WEIGHTS,
    TrainingState,
    newest_checkpoint,
    read_state,
)
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.trained import CONFIG, is_plain, read_description

CARD, DECODER = "README.md", "decoder.safetensors"
PREPROCESSOR = "preprocessor_config.json"
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")
POOLS = ("avg", "token")
"""inputs of heads that are known, in timm's words"""


def find_weights(source: str) -> Weights:
    """Load the weights of `source`; UserError, in one line, where that fails."""
    return _without_other_head(_found(source))


def _without_other_head(weights: Weights) -> Weights:
    """`weights`, without a head whose input is neither the mean of tokens nor one of them."""
    pool = weights.architecture.global_pool if weights.architecture else "token"
    if any(reason == ATTENTION_POOLING for reason in weights.skipped.values()):
        pool = "map"
    if pool in POOLS or not weights.head:
        return weights
    note = f"its head is not used: it reads tokens pooled by {pool!r}, not {' or '.join(POOLS)}"
    return weights._replace(head={}, notes=(*weights.notes, note))


def _found(source: str) -> Weights:
    kind, _, name = source.partition(":")
    if kind == "timm":
        return _from_timm(source, name)
    if kind == "hf":
        return _from_folder(_fetch_folder(source, name), source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _from_folder(path, source)
    if path.exists():
        return _from_file(path, source, Geometry(), file_licence(path, source))
    hint = f"; did you mean timm:{source}?" if timm.is_model(source.split(".")[0]) else ""
    raise UserError(
        f"init.from: {source}: no such file or folder (timm:NAME and hf:ID are fetched){hint}"
    )


def _from_file(path: Path, source: str, geometry: Geometry, licence: Licence) -> Weights:
    read = read_weights(path)
    named = to_our_names(read.tensors, source)
    found = Weights(source, *named, geometry, sha256_of(path), licence)
    return found._replace(settings=read.settings)


class TrainedModel(NamedTuple):
    """A run's checkpoint or a plain export: weights with their settings."""

    folder: Path
    """folder of the run or the export"""
    file: Path
    """file of the weights"""
    config: Config
    state: TrainingState


def find_trained_model(source: str) -> TrainedModel | None:
    """Find the run, checkpoint or plain export called `source`; None for other sources.

    Raises UserError where it is damaged, or a run without a checkpoint.
    """
    kind, _, name = source.partition(":")
    folder = _fetch_folder(source, name) if kind == "hf" else Path(source).expanduser()
    return _trained(folder, source) if folder.is_dir() else None


def _trained(folder: Path, source: str) -> TrainedModel | None:
    if (folder / "config.yaml").exists():
        found = newest_checkpoint(Run(folder).checkpoints)
        if found is None:
            raise UserError(f"init.from: {source}: a run without a checkpoint yet")
        return TrainedModel(folder, found.path / WEIGHTS, Run(folder).config(), found.state)
    if (folder / "state.json").exists():
        state, run = read_state(folder), folder.parent.parent
        return TrainedModel(run, folder / WEIGHTS, Run(run).config(), state)
    if is_plain(read_json(folder / CONFIG)):
        plain = read_description(folder)
        return TrainedModel(folder, folder / WEIGHTS, plain.config, plain.state)
    return None


def _from_folder(folder: Path, source: str) -> Weights:
    trained = _trained(folder, source)
    return _from_trained(trained, source) if trained else _from_model_folder(folder, source)


def _from_trained(trained: TrainedModel, source: str) -> Weights:
    config, model = trained.config, trained.config.model
    if not isinstance(model, VitModel):
        raise UserError(
            f"init.from: {source}: is of objective {config.objective}, which has no timm encoder"
        )
    with torch.device("meta"):
        encoder = build_encoder(
            model.encoder,
            img_size=config.data.img_size,
            patch_size=model.patch_size,
            in_chans=config.data.in_chans,
            **model.encoder_kwargs,
        )
    geometry = geometry_of(encoder)._replace(
        decoder_num_heads=getattr(model, "decoder_num_heads", None)
    )
    found = _from_file(trained.file, source, geometry, folder_licence(trained.folder, source))
    return found._replace(
        normalisation=Normalisation(config.data.mean, config.data.std),
        history=history_of(config, trained.state, read_json(trained.folder / "init.json")),
    )


def _from_model_folder(folder: Path, source: str) -> Weights:
    """Load a `config.json` with weights beside it, as in exports and on model hubs."""
    weights = next((folder / name for name in MODEL_FILES if (folder / name).exists()), None)
    if weights is None or not (folder / CONFIG).exists():
        files = sorted(path.name for path in folder.iterdir() if path.suffix in ENDINGS)
        hint = f"; give one of its files: {', '.join(files[:5])}" if files else ""
        raise UserError(
            f"init.from: {source}: neither a run (config.yaml) nor a model "
            f"({CONFIG} and {MODEL_FILES[0]}){hint}"
        )
    config = _config(folder / CONFIG, source)
    found = _from_file(
        weights,
        source,
        geometry_from_config(config, source),
        folder_licence(folder, source, config),
    )
    described = config.get("pretrained_cfg")
    known = preprocessor_normalisation(folder / PREPROCESSOR) or read_normalisation(described)
    found = found._replace(
        normalisation=known,
        architecture=architecture_from_config(config),
        settings={**found.settings, **settings_from_config(config)},
        crop_pct=preprocessor_crop(folder / PREPROCESSOR) or read_crop(described),
        class_names=class_names_from_config(config),
    )
    if (folder / DECODER).exists():
        read = read_weights(folder / DECODER)
        decoder = {f"decoder.{name}": tensor for name, tensor in read.tensors.items()}
        found = found._replace(
            decoder=to_our_names(decoder, source).decoder,
            settings={**found.settings, **read.settings},
        )
    return found


def _config(path: Path, source: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"init.from: {source}: {CONFIG} is damaged: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"init.from: {source}: {CONFIG} describes no model")
    return config


def _from_timm(source: str, name: str) -> Weights:
    """Load pretrained weights through timm, which downloads them and converts their names."""
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise UserError(f"init.from: {source}: timm has no such model (timm.list_pretrained())")
    with torch.device("meta"):  # checks the kind of model before the download
        plan = timm.create_model(architecture, pretrained=False, **usual_arguments(architecture))
    try:
        plan = supported(plan, architecture)
    except UserError as error:
        reason = str(error).removeprefix("model.encoder: ")
        raise UserError(f"init.from: {source}: {reason}") from None
    model = fetch_timm(source, name)
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    config = model.pretrained_cfg if isinstance(model.pretrained_cfg, dict) else {}
    return Weights(
        source,
        *to_our_names(tensors, source),
        geometry_of(plan),
        hashlib.sha256(save(tensors)).hexdigest(),
        named_licence(source, config.get("license")),
        read_normalisation(config),
        architecture=Architecture(architecture, {}, adapter_of(plan).pooling(plan)),
        crop_pct=read_crop(config),
    )


def fetch_timm(source: str, name: str, **arguments: Any) -> Any:
    """`timm.create_model(name, pretrained=True)`; UserError, in one line, where that fails."""
    try:
        return timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # of timm, torch.hub or the hub: no common base class
        raise UserError(f"init.from: {source}: {_fetch_failure(error)}") from None


def _fetch_folder(source: str, name: str) -> Path:
    """Download a model from the hub and return its folder in the cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def fetch(file: str, is_needed: bool = True) -> Path | None:
        try:
            return Path(hf_hub_download(name, file))
        except Exception as error:
            is_absent = isinstance(error, EntryNotFoundError | LocalEntryNotFoundError)
            if is_absent and not is_needed:
                return None
            raise UserError(f"init.from: {source}: {_fetch_failure(error)}") from None

    config = fetch(CONFIG)
    assert config is not None
    if fetch(MODEL_FILES[0], is_needed=False) is None:
        fetch(MODEL_FILES[1])
    for file in (CARD, DECODER, PREPROCESSOR):
        fetch(file, is_needed=False)
    return config.parent


def _fetch_failure(error: Exception) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):
        return "the hub cannot be reached, and its cache on this machine does not hold it"
    return f"cannot be fetched: {' '.join(str(error).split()) or type(error).__name__}"
