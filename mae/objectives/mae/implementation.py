"""Masked autoencoding: model, first weights, exports, measurements on held-out images."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from mae.config.sections import Config
from mae.evaluation.health import measure_held_out
from mae.export.subject import Writer
from mae.objectives.base import HeldOut, Implementation, Objective
from mae.objectives.mae.export import resize_decoder, write_timm
from mae.objectives.mae.huggingface import write_huggingface
from mae.objectives.mae.initial import start_mae
from mae.objectives.mae.model import MaskedAutoencoder, build_mae
from mae.objectives.mae.original import write_original
from mae.objectives.mae.pictures import reconstruct
from mae.objectives.mae.reconstruction import hidden_sums, shares_explained
from mae.pictures.reconstruction import Asked, Reconstructed
from mae.pretrained_weights.record import Initial


class MaeImplementation(Implementation):
    """Masked autoencoding."""

    exports: ClassVar[Mapping[str, Writer]] = {
        "timm": write_timm,
        "mae": write_original,
        "hf": write_huggingface,
    }

    def build(self, config: Config) -> MaskedAutoencoder:
        """The model that the settings describe, freshly initialised from torch's generator."""
        return build_mae(config)

    def measure(self, objective: Objective, held_out: HeldOut) -> Mapping[str, Any]:
        """Health of the features, and R² on hidden patches beside trivial predictors."""
        assert isinstance(objective, MaskedAutoencoder)
        health, sums = measure_held_out(objective, held_out, partial(hidden_sums, objective))
        r2, r2_patch_mean, r2_interpolation = shares_explained(*sums.tolist())
        r2s = {"r2": r2, "r2_interpolation": r2_interpolation, "r2_patch_mean": r2_patch_mean}
        return {**health._asdict(), **r2s}

    def reconstruct(self, objective: Objective, asked: Asked) -> Reconstructed:
        """Sheet of hidden and predicted patches, and R² beside trivial predictors."""
        assert isinstance(objective, MaskedAutoencoder)
        return reconstruct(objective, asked)

    def load_initial(self, objective: Objective, config: Config) -> Initial:
        """Load the encoder, and the decoder where the source has one of this architecture."""
        assert isinstance(objective, MaskedAutoencoder)
        return start_mae(objective, config.init, config.data)

    def after_resize(self, objective: Objective, old_grid: tuple[int, int]) -> None:
        """Fit the decoder's positions."""
        assert isinstance(objective, MaskedAutoencoder)
        resize_decoder(objective, old_grid)


IMPLEMENTATION = MaeImplementation()
