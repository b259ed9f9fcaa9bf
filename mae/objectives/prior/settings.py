"""Settings of the prior over codes: section `model:`."""

from pathlib import Path
from typing import Literal

from mae.config.sections import Config
from mae.config.types import Positive, Section, Text
from mae.objectives.autoencoders.discrete_declaration import DiscreteModel


class PriorModel(Section):
    """Transformer over the codes of a frozen tokenizer."""

    tokenizer: Path = Path()
    """run, checkpoint or plain export of a vqvae, vqvae2 or fsq; the run keeps a copy"""
    sha256: Text = ""
    """checksum of the tokenizer's weights, filled in at the start"""
    kind: Literal["causal", "masked"] = "causal"
    """causal: predicts each code from those before it, which also gives the length of an entropy
    code; masked: predicts hidden codes from all others, samples in few passes (MaskGIT)"""
    dim: Positive = 128
    """width of the transformer, a multiple of num_heads"""
    depth: Positive = 4
    """number of transformer blocks"""
    num_heads: Positive = 4
    """number of attention heads in each block"""
    passes: Positive = 8
    """masked: passes of the transformer per sample"""


def prior_model(config: Config) -> PriorModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, PriorModel)
    return config.model


def is_tokenizer(config: Config) -> bool:
    """True for the settings of an autoencoder with codes."""
    return isinstance(config.model, DiscreteModel)
