"""What is measured: one implementation of the training step, at one size."""

from typing import NamedTuple

from mae.config import Config
from mae.settings import load_config

OURS, TEXTBOOK, TRANSFORMERS = "mae", "textbook", "transformers"
IMPLEMENTATIONS = (OURS, TEXTBOOK, TRANSFORMERS)
COMPILED = {"eager": False, "compile": True}
"""train.compile for these modes; further ones have its own names"""


class Case(NamedTuple):
    """A training step; all settings are those of `ModelConfig` and `TrainConfig`."""

    implementation: str = OURS
    encoder: str = "vit_base_patch16_224"
    img_size: int | None = None
    """pixels (default: the encoder's)"""
    decoder_depth: int = 8
    batch_size: int = 64
    """images of a step, all at once"""
    mode: str = "eager"
    """eager; compile: train.compile=true; reduce-overhead, max-autotune: train.compile's"""
    precision: str = "auto"
    settings: str = ""
    """further ones, as section.key=value, with commas between them"""

    @property
    def name(self) -> str:
        """The implementation and how it is run."""
        return f"{self.implementation} {self.mode} {self.settings}".strip()

    def config(self) -> Config:
        """The settings of a run that takes these steps.  Raises UserError for impossible ones."""
        size = None if self.img_size is None else (self.img_size, self.img_size)
        settings = [one for one in self.settings.split(",") if one]
        model = {"encoder": self.encoder, "img_size": size, "decoder_depth": self.decoder_depth}
        train = {
            "batch_size": self.batch_size,
            "max_device_batch": self.batch_size,
            "precision": self.precision,
            "compile": COMPILED.get(self.mode, self.mode),
        }
        return load_config(None, settings, {"model": model, "train": train})
