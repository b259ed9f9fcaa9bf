"""Implementation of the prior over codes."""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mae.config.sections import Config
from mae.evaluation.health import measure_held_out
from mae.objectives.autoencoders.discrete import codes_in_colour
from mae.objectives.base import Objective
from mae.objectives.implementation import HeldOut, Implementation
from mae.objectives.prior.declaration import marginal_bits
from mae.objectives.prior.model import CodePrior
from mae.objectives.prior.settings import prior_model
from mae.objectives.two_stage import build_first_stage, refuse_other_stage
from mae.pictures.drawing import displayable, displayable_alone, stacked, strips, tile

SAMPLES = 8
"""maximum number of samples on a panel"""


class PriorImplementation(Implementation):
    """Implementation of the prior over codes."""

    def build(self, config: Config) -> CodePrior:
        """Build the prior around its tokenizer."""
        return CodePrior(build_first_stage(config), prior_model(config))

    def load_initial(self, objective: Objective, config: Config) -> None:
        """Leave loading to the core, of weights for the codes of the same tokenizer."""
        refuse_other_stage(config)

    def measure(self, objective: Objective, held_out: HeldOut) -> Mapping[str, Any]:
        """Evaluate feature health, bits per code beside the frequencies alone, bits per pixel."""
        assert isinstance(objective, CodePrior)

        @torch.no_grad()
        def sums(images: Tensor, seeds: Tensor) -> npt.NDArray[np.float64]:
            noise = objective.draw(images, seeds)
            output = objective(images, noise, torch.ones((), device=images.device))
            nats = output.losses["codes"].double().item() * len(images)
            own = [output.statistics[key] for key in ("level_nats", "level_codes", "uses")]
            return np.concatenate([[len(images), nats], torch.cat(own).cpu().numpy()])

        health, totals = measure_held_out(objective, held_out, sums)
        count = len(objective.levels)
        (images, total), level_nats, level_codes, uses = np.split(
            totals, [2, 2 + count, 2 + 2 * count]
        )
        bits = float(total / images) / log(2)
        height, width = objective.img_size
        figures = {"bits": bits, "bits_marginal": marginal_bits(uses.tolist(), count)}
        if objective.is_causal:
            figures["bits_per_pixel"] = bits * objective.length / (height * width)
        if count > 1:
            of_level = zip(level_nats / level_codes / log(2), np.split(uses, count), strict=True)
            for level, (own_bits, own_uses) in zip(objective.levels, of_level, strict=True):
                figures[level.key("bits")] = float(own_bits)
                figures[level.key("bits_marginal")] = marginal_bits(own_uses.tolist(), 1)
        return {**health._asdict(), **figures}

    @torch.no_grad()
    def panel(
        self,
        objective: Objective,
        images: Tensor,
        seeds: Tensor,
        title: str,
        names: Sequence[str] = (),
    ) -> Image.Image:
        """Panel: images, the tokenizer's reconstructions and codes; samples of the prior."""
        assert isinstance(objective, CodePrior)
        tokenizer = objective.tokenizer
        columns = {
            "image": displayable(images),
            "tokenizer": displayable(images, tokenizer.decompress(tokenizer.compress(images))),
            **codes_in_colour(tokenizer, images),
        }
        samples = displayable_alone(objective.sample(seeds[:SAMPLES]), images)
        return stacked([tile(columns, title, names), strips("samples of the prior", {"": samples})])


IMPLEMENTATION = PriorImplementation()
