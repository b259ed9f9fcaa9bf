"""Implementation of the sparse autoencoder on tokens."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.evaluation.health import measure_held_out
from mae.evaluation.token_pca import variance_figures
from mae.export.contract import Writer
from mae.objectives.base import Objective
from mae.objectives.implementation import HeldOut, Implementation
from mae.objectives.sae.declaration import sae_model
from mae.objectives.sae.dictionary import TokenDictionary
from mae.objectives.sae.export import write_onnx, write_programs, write_saelens
from mae.objectives.sae.measure import token_sums, training_pca
from mae.objectives.sae.model import TokenSparseAutoencoder
from mae.objectives.sae.pictures import latents_panel
from mae.objectives.sae.tokens import token_encoder, token_width
from mae.objectives.two_stage import build_first_stage, refuse_other_stage


class SaeImplementation(Implementation):
    """Implementation of the sparse autoencoder on tokens."""

    exports: ClassVar[Mapping[str, Writer]] = {
        "saelens": write_saelens,
        "onnx": write_onnx,
        "torch": write_programs,
    }

    def build(self, config: Config) -> TokenSparseAutoencoder:
        """Build the dictionary from the settings, on the frozen encoder.

        Raises UserError as `build_first_stage`, `token_encoder` and `token_width`, or where the
        active latents are not fewer than all.
        """
        model, stage = sae_model(config), build_first_stage(config)
        encoder = token_encoder(stage, config)
        width = token_width(encoder, config)
        if model.k >= model.expansion * width:
            raise UserError(
                f"model.k: {model.k} of {model.expansion} x {width} latents are not sparse: choose "
                "fewer"
            )
        dictionary = TokenDictionary(
            width,
            model.expansion * width,
            k=model.k,
            group=model.group,
            aux_weight=model.aux_weight,
            aux_k=model.aux_k or max(1, width // 2),
            dead_after=model.dead_after,
            threshold_decay=model.threshold_decay,
        )
        built = TokenSparseAutoencoder(encoder, dictionary)
        built.first_stage = stage
        return built

    def load_initial(self, objective: Objective, config: Config) -> None:
        """Leave loading to the core, of weights for the tokens of the same layer and encoder."""
        refuse_other_stage(config, "layer", "untrained")

    def measure(self, objective: Objective, held_out: HeldOut) -> Mapping[str, Any]:
        """Evaluate feature health, and explained variance beside PCA's."""
        assert isinstance(objective, TokenSparseAutoencoder)
        if objective.pca is None:
            objective.pca = training_pca(objective, held_out)
        pca = objective.pca

        def sums(images: Tensor, seeds: Tensor) -> npt.NDArray[np.float64]:
            return token_sums(objective, pca, images)

        health, totals = measure_held_out(objective, held_out, sums)
        return {**health._asdict(), **variance_figures(pca, totals)}

    def panel(
        self,
        objective: Objective,
        images: Tensor,
        seeds: Tensor,
        title: str,
        names: Sequence[str] = (),
    ) -> Image.Image:
        """Panel: some latents, the images in which they are largest, and where they fire."""
        assert isinstance(objective, TokenSparseAutoencoder)
        return latents_panel(objective, images, title)


IMPLEMENTATION = SaeImplementation()
