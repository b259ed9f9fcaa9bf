"""Implementation of the prior over codes."""

from collections.abc import Mapping
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
from mae.objectives.autoencoders.discrete_declaration import entropy
from mae.objectives.base import HeldOut, Implementation, Objective
from mae.objectives.prior.model import CodePrior
from mae.objectives.prior.settings import prior_model
from mae.objectives.prior.tokenizer import tokenizer_of
from mae.pictures.drawing import displayable, displayable_alone, stacked, strips, tile

SAMPLES = 8
"""maximum number of samples on a panel"""


class PriorImplementation(Implementation):
    """Implementation of the prior over codes."""

    def build(self, config: Config) -> CodePrior:
        """Build the prior around its tokenizer."""
        model = prior_model(config)
        return CodePrior(tokenizer_of(model), model)

    def measure(self, objective: Objective, held_out: HeldOut) -> Mapping[str, Any]:
        """Evaluate feature health, bits per code beside the frequencies alone, bits per pixel."""
        assert isinstance(objective, CodePrior)

        @torch.no_grad()
        def sums(images: Tensor, seeds: Tensor) -> npt.NDArray[np.float64]:
            noise = objective.draw(images, seeds)
            output = objective(images, noise, torch.ones((), device=images.device))
            nats = output.losses["codes"].double().item() * len(images)
            uses = output.statistics["uses"].cpu().numpy()
            return np.concatenate([[len(images), nats], uses])

        health, totals = measure_held_out(objective, held_out, sums)
        bits = float(totals[1] / totals[0]) / log(2)
        height, width = objective.img_size
        figures = {"bits": bits, "bits_marginal": entropy(totals[2:].tolist()) / log(2)}
        if objective.is_causal:
            figures["bits_per_pixel"] = bits * objective.length / (height * width)
        return {**health._asdict(), **figures}

    @torch.no_grad()
    def panel(self, objective: Objective, images: Tensor, seeds: Tensor, title: str) -> Image.Image:
        """Panel: images, the tokenizer's reconstructions and codes; samples of the prior."""
        assert isinstance(objective, CodePrior)
        tokenizer = objective.tokenizer.model
        columns = {
            "image": displayable(images),
            "tokenizer": displayable(images, tokenizer.decompress(tokenizer.compress(images))),
            "codes": codes_in_colour(tokenizer, images),
        }
        samples = displayable_alone(objective.sample(seeds[:SAMPLES]), images)
        return stacked([tile(columns, title), strips("samples of the prior", {"": samples})])


IMPLEMENTATION = PriorImplementation()
