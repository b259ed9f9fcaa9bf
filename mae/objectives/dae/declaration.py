"""Declaration of the denoising autoencoder."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mae.config.sections import Config
from mae.config.types import Positive, Share
from mae.objectives.autoencoders.declaration import (
    AutoencoderDeclaration,
    AutoencoderModel,
    Stages,
)
from mae.objectives.charts import Chart, Curve
from mae.objectives.declaration import Card

if TYPE_CHECKING:
    from mae.evaluation.diagnosis import Finding
    from mae.evaluation.run_record import RunRecord

DENOISE_CODE = """\
clean = objective.denoise(images)  # of noisy images, [1, channels, height, width] in [0, 1]
"""


class DaeModel(AutoencoderModel):
    """Networks and corruption of a denoising autoencoder."""

    stages: Stages = 1
    """conv, ldm: number of halvings of the image's sides"""
    depth: Positive = 2
    """conv, ldm: residual blocks per stage"""
    latent: Literal["vector", "map"] = "map"
    """latents, the numbers that an image is compressed to: vector, one vector for the whole image;
    map, a grid with one vector for each square of 2^stages pixels (vit: for each patch)"""
    latent_dim: Positive = 32
    """numbers in each of these vectors: the fewer, the stronger the compression"""
    corruption: Literal["gaussian", "masking", "salt_and_pepper"] = "gaussian"
    """noise of the input: gaussian, added; masking, pixels set to 0; salt_and_pepper, pixels set to
    0 or 1"""
    strength: Share = 0.1
    """gaussian: standard deviation of the noise, of pixels in [0, 1]; else share of the pixels"""
    residual: bool = True
    """predict the noise, which is subtracted from the input, instead of the image"""


def dae_model(config: Config) -> DaeModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, DaeModel)
    return config.model


class DaeDeclaration(AutoencoderDeclaration):
    """Denoising autoencoder."""

    name = "dae"
    summary = "denoising autoencoder: clean images from noisy ones (Vincent et al. 2008)"
    model = DaeModel
    charts = (
        Chart(
            "PSNR of the denoised image (dB)",
            (
                Curve("psnr", "training"),
                Curve("psnr", "held-out", "health"),
                Curve("psnr_pca", "PCA of the noisy image", "health", is_reference=True),
                Curve("psnr_noisy", "noisy image", "health", is_reference=True),
            ),
        ),
    )
    about_learning = (
        "PSNR is the mean over images, in dB, of pixels in [0, 1]; higher is better. A denoiser "
        "must beat the noisy image itself, and PCA: the noisy image projected onto the principal "
        "components of clean training images."
    )
    loss_settings = ("model.corruption", "model.strength")
    offers = ("reconstructions", "latents", "latents to decode", "denoised images")
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = AutoencoderDeclaration.defaults

    def is_regularised(self, config: Config) -> bool:
        """True: the input is corrupted."""
        return True

    def why_no_path(self, config: Config) -> str:
        """Reason where the latents stand for the noise alone."""
        if not dae_model(config).residual:
            return ""
        return (
            "it predicts the noise of its input, so its latents give no image; train with "
            "model.residual=false"
        )

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings that conflict."""
        yield from super().validate(config)
        model = dae_model(config)
        if model.corruption != "gaussian" and model.strength >= 1:
            yield "model.strength", "corrupts every pixel; choose a share below 1"

    def cautions(self, config: Config, images: int) -> "Iterator[Finding]":
        """Findings of any autoencoder, and on noise that the integers of the files hide."""
        from mae.objectives.dae.diagnosis import about_strength

        yield from super().cautions(config, images)
        model = dae_model(config)
        if model.corruption == "gaussian":
            yield from about_strength(model.strength, config.data.bits)

    def diagnose(self, run: "RunRecord") -> "Iterator[Finding]":
        """Findings of any autoencoder, and on results no better than the noisy image or PCA."""
        from mae.objectives.dae.diagnosis import diagnose

        yield from super().diagnose(run)
        yield from diagnose(run)

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card: the noise."""
        model = dae_model(config)
        noise = f"{model.corruption.replace('_', ' ')} noise of strength {model.strength}"
        return Card(
            "trained as a denoiser",
            f"clean pixels from images with {noise}",
            "A denoising autoencoder (Vincent et al. 2008). It expects the noise that it was "
            f"trained on: {noise}, of pixels in [0, 1].",
            task="image-to-image",
            code=DENOISE_CODE,
        )


DECLARATION = DaeDeclaration()
