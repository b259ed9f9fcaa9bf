"""Declaration shared by the autoencoders: settings of their networks, metrics, checks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from mae.config.sections import Config
from mae.config.types import Positive
from mae.objectives.charts import Chart, Curve, Metric
from mae.objectives.declaration import Declaration
from mae.objectives.shared_sections import VitModel, refuse_arguments

if TYPE_CHECKING:
    from mae.evaluation.diagnosis import Finding
    from mae.evaluation.run_record import RunRecord

Stages = Annotated[int, Field(gt=0, le=10)]


class AutoencoderModel(VitModel):
    """Networks of an autoencoder, and the shape of its latents."""

    backbone: Literal["conv", "vit", "ldm", "linear"] = "conv"
    """networks: conv, convolutions that halve the image in each stage; vit, a Vision Transformer
    (model.encoder) with a transformer as decoder; ldm, those of latent diffusion, by diffusers;
    linear, none, so that both are linear maps"""
    width: Positive = 32
    """conv, ldm: channels of the first stage, a multiple of 8; further stages have more"""
    stages: Stages = 2
    """conv, ldm: number of halvings of the image's sides"""
    depth: Positive = 1
    """conv, ldm: residual blocks per stage"""
    encoder: str = "vit_tiny_patch16_224"
    """vit: timm name of a Vision Transformer (mae recipes encoders lists them)"""
    decoder_depth: Positive = 2
    """vit: number of decoder blocks, as wide as the encoder's"""
    latent: Literal["vector", "map"] = "vector"
    """latents, the numbers that an image is compressed to: vector, one vector for the whole image;
    map, a grid with one vector for each square of 2^stages pixels (vit: for each patch)"""
    latent_dim: Positive = 16
    """numbers in each of these vectors: the fewer, the stronger the compression"""


def model_of(config: Config) -> AutoencoderModel:
    """Section `model:` of a run with an autoencoder."""
    assert isinstance(config.model, AutoencoderModel)
    return config.model


def reduction(config: Config) -> int | None:
    """Pixels per side of a position of the map; None: the patch size of timm's encoder."""
    model = model_of(config)
    sides = {"vit": model.patch_size, "linear": 1}
    return sides.get(model.backbone, 2**model.stages)


def latent_numbers(config: Config) -> int | None:
    """Numbers in the latents of an image; None where only the built encoder knows."""
    model, side = model_of(config), reduction(config)
    if model.latent == "vector":
        return model.latent_dim
    if side is None or config.data.img_size is None:
        return None
    height, width = config.data.img_size
    return model.latent_dim * (height // side) * (width // side)


def image_numbers(config: Config) -> int | None:
    """Numbers in an image; None where data.img_size is not set."""
    if config.data.img_size is None:
        return None
    height, width = config.data.img_size
    return height * width * config.data.in_chans


def no_bottleneck(numbers: int, whole: int) -> str:
    """Message on latents with as many numbers as the image, `whole`."""
    return (
        f"{numbers:,} numbers per image are no bottleneck for images of {whole:,}: the model could "
        "copy its input; choose fewer"
    )


DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "data": {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "crop_pct": 1.0},
    "optim": {
        "lr": 2e-3,
        "betas": (0.9, 0.99),
        "weight_decay": 0.01,
        "warmup_epochs": 1.0,
    },
    "train": {"epochs": 20.0, "batch_size": 64},
}
"""whole images without random crops; small networks at a high learning rate"""

PSNR_CHART = Chart(
    "PSNR of the reconstruction (dB)",
    (
        Curve("psnr", "training"),
        Curve("psnr", "held-out", "health"),
        Curve("psnr_pca", "PCA", "health", is_reference=True),
        Curve("psnr_mean_image", "mean image", "health", is_reference=True),
    ),
)


LATENTS_CODE = """\
latents = objective.latents(images)  # the numbers that the image is compressed to
again = objective.decode(latents)  # [1, channels, height, width] in [0, 1]
"""
SAMPLE_CODE = """\
new = objective.sample(torch.arange(8))  # one image in [0, 1] per seed
"""


def shown_values(row: Mapping[str, Any], *formats: tuple[str, str]) -> list[str]:
    """Values of a row by (key, format), of the keys that have a number."""
    found = [(row.get(key), text) for key, text in formats]
    return [text.format(value) for value, text in found if isinstance(value, int | float)]


def held_out(name: str, health: Mapping[str, Any], shown: Sequence[str]) -> list[tuple[str, str]]:
    """Row of the model card on held-out images; none where nothing is shown."""
    if not shown:
        return []
    label = f"{name} of {health.get('images', 0):,} held-out images, step {health.get('step', 0):,}"
    return [(label, ", ".join(shown))]


class AutoencoderDeclaration(Declaration):
    """Declaration of an autoencoder: images → latents → images."""

    model = AutoencoderModel
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = DEFAULTS
    losses = ("reconstruction",)
    statistics: ClassVar = {"psnr": "mean"}
    metrics = (Metric("psnr", "PSNR", ".2f", tile="PSNR, dB"),)
    charts = (PSNR_CHART,)
    offers = ("reconstructions", "latents", "latents to decode")
    tag = "autoencoder"
    about_learning = (
        "PSNR is the mean over images, in dB, of pixels in [0, 1]; higher is better. PCA keeps as "
        "many numbers per image as the latents and is fitted on training images; an autoencoder "
        "below it has learned nothing that a linear map does not know."
    )
    shardable = False

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """PSNR of the training images."""
        psnr = statistics["psnr"]
        assert isinstance(psnr, float)
        return {"psnr": psnr}

    def is_regularised(self, config: Config) -> bool:
        """True where more than the number of latents keeps the identity from being learned."""
        return False

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings of the networks that conflict."""
        model = model_of(config)
        yield from refuse_arguments(model)
        if model.backbone == "ldm" and config.train.grad_checkpointing:
            yield "train.grad_checkpointing", "is not available with model.backbone=ldm"
        if model.backbone in ("conv", "ldm"):
            if model.width % 8:
                yield "model.width", f"{model.width} must be a multiple of 8"
            side = 2**model.stages
            if config.data.img_size and any(length % side for length in config.data.img_size):
                height, width = config.data.img_size
                yield (
                    "model.stages",
                    f"{model.stages} stages need sides that divide by {side}, and data.img_size is "
                    f"{height} x {width}",
                )
        numbers, whole = latent_numbers(config), image_numbers(config)
        if not self.is_regularised(config) and numbers and whole and numbers >= whole:
            yield "model.latent_dim", no_bottleneck(numbers, whole)

    def cautions(self, config: Config, images: int) -> "Iterator[Finding]":
        """Findings on missing held-out images, large latents, and samples that would be noise."""
        from mae.objectives.autoencoders.cautions import (
            about_few_images,
            about_latents,
            about_samples,
            unmeasured,
        )

        yield from unmeasured(config)
        if not self.is_regularised(config):
            yield from about_latents(latent_numbers(config), image_numbers(config))
            if model_of(config).latent == "vector":
                yield from about_few_images(self.latent_dim(config), images)
        if "samples" in self.offers:
            yield from about_samples(self.why_no_samples(config))

    def diagnose(self, run: "RunRecord") -> "Iterator[Finding]":
        """Findings on latents that are too large, and on reconstructions that equal the images."""
        from mae.objectives.autoencoders.diagnosis import about_copies, about_gap

        yield from about_gap(run)
        yield from about_copies(run)

    def warn(self, run: "RunRecord") -> "Iterable[Finding]":
        """The same findings, while the run goes on."""
        return self.diagnose(run)

    def trains_vit(self, config: Config) -> bool:
        """True for the backbone vit."""
        return model_of(config).backbone == "vit"

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: held-out PSNR beside that of the baselines."""
        names = {"held-out": "model"}
        curves = [curve for curve in self.charts[0].curves if curve.source == "health"]
        formats = [(one.key, names.get(one.label, one.label) + " {:.2f} dB") for one in curves]
        rows = super().results(metrics, health)
        return [*rows, *held_out("PSNR", health, shown_values(health, *formats))]

    def latent_dim(self, config: Config) -> int:
        """Numbers of a latent vector."""
        return model_of(config).latent_dim

    def describe(self, config: Config, size: str) -> str:
        """Networks, latents and size in a few words."""
        model = model_of(config)
        network = {
            "vit": model.encoder,
            "linear": "linear",
        }.get(model.backbone, f"{model.backbone} {model.width} x {model.stages} stages")
        shape = "" if model.latent == "vector" else " per position"
        return f"{self.name}, {network}, {self.latent_dim(config)} latents{shape}, {size}"
