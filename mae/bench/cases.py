"""A case to measure: one implementation of the training step, at one size."""

from pathlib import Path
from typing import NamedTuple

from mae.config.loading import load_config
from mae.config.sections import Config

OURS = "mae"
COMPILED = {"eager": False, "compile": True}
"""train.compile for these modes; further ones have its own names"""


class Case(NamedTuple):
    """A training step; its model is that of a file of settings, or an encoder with a decoder."""

    implementation: str = OURS
    """ours, or one of those in benchmarks/"""
    config_file: str = ""
    """YAML file of settings, of any objective; the next three are then not looked at"""
    encoder: str = "vit_base_patch16_224"
    img_size: int | None = None
    """pixels (default: the encoder's, or the file's)"""
    decoder_depth: int = 8
    batch_size: int = 64
    """images of a step, all at once"""
    mode: str = "eager"
    """eager; compile: train.compile=true; reduce-overhead, max-autotune: train.compile's"""
    precision: str = "auto"
    """as train.precision; auto: the file's, where there is one"""
    settings: str = ""
    """further ones, as section.key=value, with commas between them"""

    @property
    def name(self) -> str:
        """The implementation and how it is run."""
        return f"{self.implementation} {self.mode} {self.settings}".strip()

    @property
    def model(self) -> str:
        """The file of settings or the encoder, without what every case of a comparison shares."""
        return model_name(self._asdict())

    def config(self) -> Config:
        """The settings of a run that takes these steps.  Raises UserError for impossible ones."""
        settings = [one for one in self.settings.split(",") if one]
        train = {
            "batch_size": self.batch_size,
            "max_device_batch": self.batch_size,
            "compile": COMPILED.get(self.mode, self.mode),
        }
        size = None if self.img_size is None else (self.img_size, self.img_size)
        if not self.config_file:
            model = {"encoder": self.encoder, "decoder_depth": self.decoder_depth}
            train["precision"] = self.precision
            sections = {"model": model, "data": {"img_size": size}, "train": train}
            return load_config(None, settings, sections)
        train["num_processes"] = 0  # one process, however many the run has
        own = [f"train.{key}={value}" for key, value in train.items()]
        if size is not None:
            own.append(f"data.img_size=[{size[0]}, {size[1]}]")
        if self.precision != "auto":
            own.append(f"train.precision={self.precision}")
        return load_config(self.config_file, [*own, *settings])


def model_name(row: dict) -> str:
    """The model of a case's dictionary, such as a row of a result; of a RUN/config.yaml the run."""
    if not row["config_file"]:
        return row["encoder"]
    path = Path(row["config_file"])
    return path.resolve().parent.name if path.name == "config.yaml" else path.stem
