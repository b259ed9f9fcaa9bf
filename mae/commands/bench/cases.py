"""Benchmark cases: one implementation of the training step at one size."""

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from mae.base.errors import UserError
from mae.commands.bench.command import DECODER_DEPTH, ENCODER
from mae.config.loading import load_config
from mae.config.recipes import find_recipe
from mae.config.sections import Config

OURS = "mae"
COMPILED = {"eager": False, "compile": True}
"""`train.compile` of these modes; the other modes are values of `train.compile` themselves"""


class Case(NamedTuple):
    """A training step of the model in a config file, or of an encoder with a decoder."""

    implementation: str = OURS
    """ours, or one of `benchmarks.implementations`"""
    config_file: str = ""
    """YAML config file of any objective; `encoder` and `decoder_depth` are then ignored"""
    encoder: str = ENCODER
    """timm name"""
    img_size: int | None = None
    """height and width in pixels (default: the encoder's, or the config file's)"""
    decoder_depth: int = DECODER_DEPTH
    batch_size: int = 64
    """images of a step, in one micro-batch"""
    mode: str = "eager"
    """eager; compile: `train.compile=true`; others: `train.compile=MODE`"""
    precision: str = "auto"
    """as `train.precision`; auto: the config file's, where there is one"""
    settings: str = ""
    """further settings, `section.key=value`, separated by commas"""

    @property
    def name(self) -> str:
        """Implementation, mode and settings."""
        return f"{self.implementation} {self.mode} {self.settings}".strip()

    @property
    def model(self) -> str:
        """Name of the config file, its run, or the encoder."""
        return model_name(self._asdict())

    def config(self) -> Config:
        """Settings of a run of these steps.  Raises UserError for invalid settings."""
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
        train["num_processes"] = 0  # this process, not the number that the run has
        own = [f"train.{key}={value}" for key, value in train.items()]
        if size is not None:
            own.append(f"data.img_size=[{size[0]}, {size[1]}]")
        if self.precision != "auto":
            own.append(f"train.precision={self.precision}")
        path = find_recipe(self.config_file, "mae pretrain")
        return load_config(path, [*own, *settings])


def model_name(row: dict) -> str:
    """Name of the model of a case's dictionary, such as a row of a result.

    The encoder, the config file without its suffix, or the run folder of a RUN/config.yaml.
    """
    if not row["config_file"]:
        return row["encoder"]
    path = Path(row["config_file"])
    return path.resolve().parent.name if path.name == "config.yaml" else path.stem


def base_cases(
    models: Sequence[str], decoder_depths: Sequence[int], config_file: str = ""
) -> list[Case]:
    """One case for the config file, or one for each encoder and decoder depth."""
    if config_file:
        return [Case(config_file=config_file)]
    return [Case(encoder=name, decoder_depth=n) for name, n in product(models, decoder_depths)]


def case_of(args: argparse.Namespace) -> Case:
    """Case of the options of one step.  Raises UserError where they name two models."""
    refuse_both(args.config, {"--model": args.model, "--decoder-depth": args.decoder_depth})
    models, depths = [args.model or ENCODER], [args.decoder_depth or DECODER_DEPTH]
    (case,) = base_cases(models, depths, args.config)
    return case._replace(
        img_size=args.img_size,
        batch_size=args.batch_size,
        mode=args.mode,
        precision=args.precision,
        settings=args.settings,
    )


def refuse_both(config_file: str, options: Mapping[str, object]) -> None:
    """Raise UserError where both a config file and options that name a model are given."""
    if config_file and (given := [name for name, value in options.items() if value]):
        raise UserError(f"bench: --config describes the model: leave {' and '.join(given)} out")
