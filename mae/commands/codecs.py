"""Models that compress, opened for `mae compress` and `mae decompress`."""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mae.base.device import choose_device
from mae.compression.codec import Codec
from mae.config.sections import Config
from mae.evaluation.encoders import weights_sha256
from mae.evaluation.features import missing_features
from mae.objectives.base import Objective
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.opened import NOTHING, OpenedModel, log_lines, open_model


class OpenedCodec(NamedTuple):
    """Codec of a run, with its settings."""

    codec: Codec
    opened: OpenedModel

    @property
    def weights(self) -> int:
        """Bytes of the weights, of the first stage too."""
        objective = self.opened.objective
        tensors = [*objective.state_dict().values()]
        if objective.first_stage is not None:
            tensors += objective.first_stage.model.state_dict().values()
        return sum(one.numel() * one.element_size() for one in tensors)


def open_codec(
    run: Path,
    args: argparse.Namespace,
    log: Callable[[str], None],
    options: WeightOptions = NOTHING,
) -> OpenedCodec:
    """Open the codec of `run`.  Raises UserError as `open_model`, and where it has no codes.

    `args`: of a command with `device_option`.
    """
    opened = open_model(run, options)
    log_lines(opened, log)
    config, device = opened.config, choose_device(args.device)
    objective = opened.objective.to(device)
    coding = getattr(objective, "coding", None)
    if coding is None:
        raise missing_features(run, config.objective, "codes", args.command)
    found = coding()
    sha256 = checksum(objective, config, [found.num_codes, *found.strides])
    codec = Codec(found, sha256, objective.img_size, config.data, device)
    return OpenedCodec(codec, opened)


def checksum(objective: Objective, config: Config, shape: Sequence[object]) -> str:
    """Checksum of everything that codes and pixels depend on: model, first stage, reading."""
    data, stage = config.data, objective.first_stage
    content = [
        weights_sha256(objective),
        config.model.model_dump_json(),  # the weights do not show the number of attention heads
        [stage.sha256, stage.config.model.model_dump_json()] if stage else [],
        list(shape),
        list(objective.img_size),
        [list(data.mean), list(data.std), data.in_chans, data.bits],
    ]
    return hashlib.sha256(repr(content).encode()).hexdigest()
