"""Declaration of the β-VAE."""

from mae.config.types import Rate
from mae.objectives.vae.declaration import VaeDeclaration, VaeModel


class BetaVaeModel(VaeModel):
    """Networks, prior weight and noise model of a β-VAE."""

    beta: Rate = 4.0
    """weight of the KL divergence; above 1 latents are fewer and less entangled"""


class BetaVaeDeclaration(VaeDeclaration):
    """β-VAE."""

    name = "beta_vae"
    summary = "β-VAE: fewer, less entangled latents (Higgins et al. 2017)"
    model = BetaVaeModel


DECLARATION = BetaVaeDeclaration()
