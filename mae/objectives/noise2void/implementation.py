"""Implementation of blind-spot denoising."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.evaluation.health import measure_held_out
from mae.export.contract import Writer
from mae.objectives.base import Objective
from mae.objectives.implementation import HeldOut, Implementation
from mae.objectives.noise2void.export import write_onnx, write_program
from mae.objectives.noise2void.measures import means_of, measure, sums_of
from mae.objectives.noise2void.model import Denoiser
from mae.objectives.noise2void.pictures import denoised_sheet, panel_columns
from mae.pictures.drawing import tile
from mae.pictures.reconstruction import ReconstructionReport, ReconstructionRequest


class Noise2VoidImplementation(Implementation):
    """Implementation of a denoiser trained on noisy images."""

    exports: ClassVar[Mapping[str, Writer]] = {"onnx": write_onnx, "torch": write_program}

    def build(self, config: Config) -> Denoiser:
        """Build the model from the settings."""
        if config.data.img_size is None:
            raise UserError("data.img_size: must be set")
        return Denoiser(config, config.data.img_size)

    def measure(self, objective: Objective, held_out: HeldOut) -> Mapping[str, Any]:
        """Evaluate feature health, and the measures of `measure`."""
        assert isinstance(objective, Denoiser)
        health, totals = measure_held_out(
            objective, held_out, lambda images, seeds: sums_of(measure(objective, images, seeds))
        )
        return {**health._asdict(), **means_of(totals)}

    @torch.no_grad()
    def panel(
        self,
        objective: Objective,
        images: Tensor,
        seeds: Tensor,
        title: str,
        names: Sequence[str] = (),
    ) -> Image.Image:
        """Panel: noisy, denoised, what was removed; the second image of a pair."""
        assert isinstance(objective, Denoiser)
        return tile(panel_columns(objective, images), title, names)

    @torch.no_grad()
    def reconstruct(
        self, objective: Objective, request: ReconstructionRequest
    ) -> ReconstructionReport:
        """Sheet of the same columns, and the held-out measures.

        Raises UserError for mask options.
        """
        assert isinstance(objective, Denoiser)
        return denoised_sheet(objective, request)


IMPLEMENTATION = Noise2VoidImplementation()
