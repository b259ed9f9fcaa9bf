"""Declaration of the undercomplete autoencoder."""

from mae.config.sections import Config
from mae.objectives.autoencoders.declaration import (
    LATENTS_CODE,
    AutoencoderDeclaration,
    AutoencoderModel,
    model_of,
)
from mae.objectives.declaration import Card


class AeModel(AutoencoderModel):
    """Networks of an undercomplete autoencoder, and the shape of its latents."""


class AeDeclaration(AutoencoderDeclaration):
    """Undercomplete autoencoder."""

    name = "ae"
    summary = "autoencoder: compresses images to few numbers (Hinton and Salakhutdinov 2006)"
    model = AeModel
    reads_floats = True

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card."""
        model = model_of(config)
        return Card(
            "trained as an autoencoder",
            f"mean squared error through {model.latent_dim} latents ({model.latent})",
            "An autoencoder (Hinton and Salakhutdinov 2006): compresses images to few numbers and "
            "reconstructs them. Compare its reconstructions with those of PCA.",
            code=LATENTS_CODE,
        )


DECLARATION = AeDeclaration()
