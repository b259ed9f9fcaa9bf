"""`init.from`: a run, a checkpoint, a folder or a file of weights, `timm:NAME`, `hf:ID`."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer

from mae.base.errors import UserError
from mae.base.files import read_json
from mae.config.sections import Config
from mae.networks.vit import build_encoder
from mae.objectives.sections import VitModel
from mae.pretrained_weights.description import (
    described,
    geometry_of,
    in_preprocessor,
    normalisation,
)
from mae.pretrained_weights.files import (
    ENDINGS,
    Geometry,
    Normalisation,
    Weights,
    read_tensors,
    sha256_of,
)
from mae.pretrained_weights.licence import Licence, licence_beside, licence_in, licence_of
from mae.pretrained_weights.names import in_our_names
from mae.pretrained_weights.record import history_of
from mae.training.checkpoint.files import WEIGHTS, TrainingState, newest_checkpoint, read_state
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.trained import CONFIG, is_plain, read_description

CARD, DECODER = "README.md", "decoder.safetensors"
PREPROCESSOR = "preprocessor_config.json"
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")


def find_weights(source: str) -> Weights:
    """The weights that `source` names; UserError in one line where there are none to be had."""
    kind, _, name = source.partition(":")
    if kind == "timm":
        return _from_timm(source, name)
    if kind == "hf":
        return _from_folder(_fetched(source, name), source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _from_folder(path, source)
    if path.exists():
        return _from_file(path, source, Geometry(), licence_beside(path, source))
    hint = f"; did you mean timm:{source}?" if timm.is_model(source.split(".")[0]) else ""
    raise UserError(
        f"init.from: {source}: no such file or folder (timm:NAME and hf:ID are fetched){hint}"
    )


def _from_file(path: Path, source: str, geometry: Geometry, licence: Licence) -> Weights:
    named = in_our_names(read_tensors(path), source)
    return Weights(source, *named, geometry, sha256_of(path), licence)


class Trained(NamedTuple):
    """Weights of ours with their settings: of a run's checkpoint, or a plain export."""

    folder: Path
    """of the run or the export"""
    file: Path
    """of the weights"""
    config: Config
    state: TrainingState


def find_trained(source: str) -> Trained | None:
    """The run, checkpoint or plain export that `source` names; None where it is none of them.

    Raises UserError where it is damaged, or a run without a checkpoint.
    """
    kind, _, name = source.partition(":")
    folder = _fetched(source, name) if kind == "hf" else Path(source).expanduser()
    return _trained(folder, source) if folder.is_dir() else None


def _trained(folder: Path, source: str) -> Trained | None:
    if (folder / "config.yaml").exists():
        found = newest_checkpoint(Run(folder).checkpoints)
        if found is None:
            raise UserError(f"init.from: {source}: a run without a checkpoint yet")
        return Trained(folder, found.path / WEIGHTS, Run(folder).config(), found.state)
    if (folder / "state.json").exists():
        state, run = read_state(folder), folder.parent.parent
        return Trained(run, folder / WEIGHTS, Run(run).config(), state)
    if is_plain(read_json(folder / CONFIG)):
        return Trained(folder, folder / WEIGHTS, *read_description(folder))
    return None


def _from_folder(folder: Path, source: str) -> Weights:
    trained = _trained(folder, source)
    return _from_trained(trained, source) if trained else _from_model_folder(folder, source)


def _from_trained(trained: Trained, source: str) -> Weights:
    config, model = trained.config, trained.config.model
    if not isinstance(model, VitModel):
        raise UserError(
            f"init.from: {source}: of objective {config.objective}, which has no encoder of timm's"
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
    found = _from_file(trained.file, source, geometry, licence_in(trained.folder, source))
    return found._replace(
        normalisation=Normalisation(config.data.mean, config.data.std),
        history=history_of(config, trained.state, read_json(trained.folder / "init.json")),
    )


def _from_model_folder(folder: Path, source: str) -> Weights:
    """A `config.json` with weights beside it, as exports and model hubs have them."""
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
        weights, source, described(config, source), licence_in(folder, source, config)
    )
    known = in_preprocessor(folder / PREPROCESSOR) or normalisation(config.get("pretrained_cfg"))
    found = found._replace(normalisation=known)
    if (folder / DECODER).exists():
        decoder = read_tensors(folder / DECODER)
        decoder = {f"decoder.{name}": tensor for name, tensor in decoder.items()}
        found = found._replace(decoder=in_our_names(decoder, source).decoder)
    return found


def _config(path: Path, source: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"init.from: {source}: {CONFIG} is damaged: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"init.from: {source}: {CONFIG} describes no model")
    return config


def _from_timm(source: str, name: str) -> Weights:
    """Through timm, which knows its weights' homes and brings them into its own names."""
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise UserError(f"init.from: {source}: timm has no such model (timm.list_pretrained())")
    with torch.device("meta"):  # to know before a download whether it is worth it
        plan = timm.create_model(architecture, pretrained=False)
    if not isinstance(plan, VisionTransformer):
        raise UserError(f"init.from: {source}: a {type(plan).__name__}, no plain ViT of timm's")
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # of its own, of torch.hub or of the hub: of no common kind
        raise UserError(f"init.from: {source}: {_why_not_had(error)}") from None
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    config = model.pretrained_cfg if isinstance(model.pretrained_cfg, dict) else {}
    return Weights(
        source,
        *in_our_names(tensors, source),
        geometry_of(plan),
        hashlib.sha256(save(tensors)).hexdigest(),
        licence_of(source, config.get("license")),
        normalisation(config),
    )


def _fetched(source: str, name: str) -> Path:
    """The folder of a model of the hub, in the cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def fetch(file: str, is_needed: bool = True) -> Path | None:
        try:
            return Path(hf_hub_download(name, file))
        except Exception as error:
            is_absent = isinstance(error, EntryNotFoundError | LocalEntryNotFoundError)
            if is_absent and not is_needed:
                return None
            raise UserError(f"init.from: {source}: {_why_not_had(error)}") from None

    config = fetch(CONFIG)
    assert config is not None
    if fetch(MODEL_FILES[0], is_needed=False) is None:
        fetch(MODEL_FILES[1])
    for file in (CARD, DECODER, PREPROCESSOR):
        fetch(file, is_needed=False)
    return config.parent


def _why_not_had(error: Exception) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):
        return "the hub cannot be reached, and its cache on this machine does not hold it"
    return f"not to be had: {' '.join(str(error).split()) or type(error).__name__}"
