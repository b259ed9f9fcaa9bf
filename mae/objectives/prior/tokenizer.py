"""Frozen tokenizer of a prior: an autoencoder with codes, stored in the prior's own weights.

Every checkpoint and export of a prior holds the tokenizer's weights, and config.yaml its settings:
each opens alone, also after the tokenizer's run is gone.
"""

from pathlib import Path
from typing import NamedTuple

from torch import nn

from mae.base.errors import UserError
from mae.config.loading import parse_recorded_config
from mae.config.sections import Config, DataConfig
from mae.evaluation.encoders import weights_sha256
from mae.objectives.autoencoders.discrete import DiscreteAutoencoder
from mae.objectives.prior.settings import PriorModel, is_tokenizer, prior_model
from mae.training.checkpoint.checkpoint_files import checkpoints
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.trained import (
    CONFIG,
    build_objective,
    load_plain,
    load_pretrained,
)


class OpenedTokenizer(NamedTuple):
    """Settings of an autoencoder with codes, and the checksum of its weights."""

    config: Config
    sha256: str
    model: DiscreteAutoencoder | None = None
    """None where the weights are in the prior's own checkpoints"""


def tokenizer_for(config: Config) -> OpenedTokenizer:
    """Tokenizer of a run that starts or resumes; one with a checkpoint has it in there.

    Raises UserError where the tokenizer is needed and is not there, or has changed since the run
    was started.
    """
    model, run = prior_model(config), Run(config.output)
    recorded = model
    if not model.tokenizer_config and run.config_file.exists():
        before = run.config().model
        recorded = before if isinstance(before, PriorModel) else model
    kept = None
    if recorded.tokenizer_config:
        settings = parse_recorded_config(recorded.tokenizer_config, "model.tokenizer_config")
        kept = OpenedTokenizer(settings, recorded.sha256)
    is_stored = bool(checkpoints(run.checkpoints))
    if kept and is_stored and model.tokenizer_config:
        return kept
    try:
        found = open_tokenizer(model.tokenizer)
    except UserError:
        if kept and is_stored:
            return kept
        raise
    if kept and found.sha256 != kept.sha256:
        raise UserError(
            f"model.tokenizer: {model.tokenizer} is not what {run.folder} was started with (sha256 "
            f"{found.sha256[:16]}, then {kept.sha256[:16]}): choose another output="
            + f", or go on with {run.config_file}, whose checkpoints hold it"
            * is_stored
        )
    return found


def open_tokenizer(folder: Path) -> OpenedTokenizer:
    """Load a tokenizer from a run, a checkpoint or a plain export.

    Raises UserError where `folder` is none of these, or the objective has no codes.
    """
    is_plain = (folder / CONFIG).exists() and not (folder / "config.yaml").exists()
    try:
        config, model, _ = load_plain(folder) if is_plain else load_pretrained(folder)
    except UserError as error:
        raise UserError(f"model.tokenizer: {error}") from None
    if not is_tokenizer(config) or not isinstance(model, DiscreteAutoencoder):
        raise UserError(
            f"model.tokenizer: {folder} is a run of objective {config.objective}, which has no "
            "codes: give a run of vqvae or fsq"
        )
    return OpenedTokenizer(without_paths(config), weights_sha256(model), model)


def without_paths(config: Config) -> Config:
    """Settings that the model is built from, without those of its training data and run."""
    kept = {"img_size", "in_chans", "bits", "mean", "std"}
    data = DataConfig().model_copy(update={key: getattr(config.data, key) for key in kept})
    plain = type(config)(objective=config.objective)
    return plain.model_copy(update={"model": config.model, "data": data})


def blank_tokenizer(model: PriorModel) -> DiscreteAutoencoder:
    """Tokenizer of the recorded settings, whose weights are in the prior's checkpoint."""
    config = parse_recorded_config(model.tokenizer_config, "model.tokenizer_config")
    built = build_objective(config)
    assert isinstance(built, DiscreteAutoencoder)
    return built


def tokenizer_of(model: PriorModel) -> DiscreteAutoencoder:
    """The tokenizer from its folder, or a blank one where that is gone or has changed.

    The weights of a run that is resumed come from its checkpoint in either case.
    """
    try:
        found = open_tokenizer(model.tokenizer)
    except UserError:
        return blank_tokenizer(model)
    is_same = found.model is not None and found.sha256 == model.sha256
    return found.model if is_same and found.model else blank_tokenizer(model)


class FrozenTokenizer(nn.Module):
    """Tokenizer without gradients, always in evaluation mode, in the state dict."""

    def __init__(self, model: DiscreteAutoencoder) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenTokenizer":
        """Keep evaluation mode."""
        return super().train(False)
