"""Declaration of the autoencoder of latent diffusion."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.config.types import Fraction, Positive, Rate, Text
from mae.objectives.autoencoders.declaration import (
    DEFAULTS,
    LATENTS_CODE,
    PSNR_CHART,
    AutoencoderDeclaration,
    AutoencoderModel,
    Stages,
    held_out,
    shown_values,
)
from mae.objectives.charts import Chart, Curve, Metric
from mae.objectives.declaration import Card
from mae.objectives.kl.moments import scale_of

if TYPE_CHECKING:
    from mae.data.manifest import Manifest
    from mae.evaluation.diagnosis import Finding
    from mae.evaluation.run_record import RunRecord

SMALLEST_SIDE = 16
"""pixels; the window of SSIM is 11"""


class KlModel(AutoencoderModel):
    """Networks and loss terms of an autoencoder of latent diffusion."""

    backbone: Literal["ldm"] = "ldm"
    """networks: those of diffusers' AutoencoderKL"""
    width: Positive = 128
    """channels of the first level, a multiple of 8; further levels have 2, 4, 4 times as many"""
    stages: Stages = 3
    """number of halvings of the image's sides: 3 for latents of 1/8 of the side, 2 for 1/4 (advised
    for images of up to 64 px)"""
    depth: Positive = 2
    """residual blocks per level of the encoder; the decoder has one more"""
    latent: Literal["map"] = "map"
    """a grid with one vector for each square of 2^stages pixels"""
    latent_dim: Positive = 4
    """channels of the latents: 4 as in Stable Diffusion, or 16 as in FLUX (advised)"""
    kl_weight: Rate = 1e-6
    """weight of the KL divergence, summed over latents, beside the error summed over pixels"""
    adv: Rate = 0.0
    """weight of the critic's score of reconstructions; 0.5 is usual (0: no critic)"""
    adv_start: Fraction = 0.5
    """share of the run after which this weight rises from 0, within a tenth of the run; the critic
    itself is trained from the first step"""
    critic_width: Positive = 64
    """channels of the critic's first layer, a multiple of 8"""
    critic_lr_scale: Rate = 1.0
    """learning rate of the critic as a multiple of the others'"""
    eq: Fraction = 0.0
    """share of the images whose latents are scaled and turned before decoding, with the image
    (EQ-VAE); 0.25 is usual"""
    frozen: Path = Path()
    """frozen encoder for perceptual and align: run, checkpoint, plain export, folder or file of
    weights, timm:NAME or hf:ID with a Vision Transformer; read at the start, kept in the run"""
    sha256: Text = ""
    """checksum of the frozen encoder's weights, filled in at the start"""
    perceptual: Rate = 0.0
    """weight of the distance of its features of image and reconstruction (0: none; 0.1 to 1)"""
    align: Rate = 0.0
    """weight of the alignment of the latents to its features (VA-VAE); 0.1 is usual (0: none)"""
    align_cosine_margin: Fraction = 0.5
    """difference from a cosine of 1, of latent and feature, that costs nothing"""
    align_distance_margin: Fraction = 0.25
    """difference between the cosines of pairs of latents, and of features, that costs nothing"""
    decoder_only: bool = False
    """train only the decoder; the encoder stays that of init.from"""


UNUSED = {
    "adv_start": "adv",
    "critic_width": "adv",
    "critic_lr_scale": "adv",
    "align_cosine_margin": "align",
    "align_distance_margin": "align",
}
"""setting → the one without which it has no effect"""


def kl_model(config: Config) -> KlModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, KlModel)
    return config.model


def has_changed(model: KlModel, key: str) -> bool:
    """True where the setting is not the default."""
    return getattr(model, key) != type(model).model_fields[key].default


def beside_baselines(title: str, key: str) -> Chart:
    """Chart of a held-out measure of the reconstructions, with those of the baselines."""
    return Chart(
        title,
        (
            Curve(key, "held-out", "health"),
            Curve(f"{key}_pca", "patch-PCA", "health", is_reference=True),
            Curve(f"{key}_bicubic", "bicubic", "health", is_reference=True),
        ),
    )


class KlDeclaration(AutoencoderDeclaration):
    """Autoencoder of latent diffusion."""

    name = "kl"
    summary = "KL autoencoder of latent diffusion, diffusers' AutoencoderKL (Rombach et al. 2021)"
    model = KlModel
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "data": {**DEFAULTS["data"], "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        "optim": {"blr": 1e-4, "betas": (0.5, 0.9), "weight_decay": 0.0, "warmup_epochs": 1.0},
        "train": {"epochs": 100.0, "batch_size": 256, "ema": 0.999},
    }
    first_stage = "frozen"
    losses = ("reconstruction", "kl", "perceptual", "alignment", "generator", "critic")
    loss_settings = (
        "model.kl_weight",
        "model.adv",
        "model.perceptual",
        "model.align",
        "model.align_cosine_margin",
        "model.align_distance_margin",
    )
    statistics: ClassVar = {"psnr": "mean", "kl_nats": "mean", "latents": "sum"}
    metrics = (
        Metric("psnr", "PSNR", ".2f", tile="PSNR, dB"),
        Metric("latent_std", "latent std", ".2f"),
        Metric("kl_nats", "KL", ".0f", tile="KL, nats per image", on_progress_line=False),
    )
    guarded_loss = "reconstruction"
    charts = (
        PSNR_CHART._replace(
            curves=(
                *PSNR_CHART.curves,
                Curve("psnr_bicubic", "bicubic", "health", is_reference=True),
            )
        ),
        beside_baselines("SSIM of the reconstruction", "ssim"),
        beside_baselines("High-frequency energy, relative to the original's", "high_frequency"),
        Chart(
            "Standard deviation of the latents",
            (Curve("latent_std", "training"), Curve("latent_std", "held-out", "health")),
        ),
    )
    about_learning = (
        "PSNR is the mean over images, in dB, of pixels in [0, 1]; higher is better. PCA is that "
        "of patches with as many numbers, and bicubic a reduced image of as many numbers, "
        "enlarged again. PSNR alone hardly separates these: SSIM (1: equal) and the energy of "
        "fine detail (1: as much as in the original) say what is blurred. Loss terms of the critic "
        "go up and down; the guard watches the reconstruction alone."
    )
    exports: ClassVar[Mapping[str, str]] = {"diffusers": "a folder for diffusers' AutoencoderKL"}

    def is_regularised(self, config: Config) -> bool:
        """False: at the usual weight the KL divergence hardly counts."""
        return False

    def why_no_samples(self, config: Config) -> str:
        """Reason why latents drawn from N(0, 1) are no images."""
        return (
            f"trained with model.kl_weight={kl_model(config).kl_weight:g}: its latents do not "
            "follow N(0, 1), and decoded samples of it would be noise. Train a diffusion model on "
            "its latents (mae export --format diffusers), or train objective vae"
        )

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """PSNR, KL divergence in nats per image, standard deviation of all latents."""
        psnr, kl, latents = (statistics[key] for key in ("psnr", "kl_nats", "latents"))
        assert isinstance(psnr, float) and isinstance(kl, float) and isinstance(latents, list)
        scale = scale_of(latents)
        return {"psnr": psnr, "kl_nats": kl, "latent_std": scale.overall_std if scale else 0.0}

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings that conflict."""
        yield from super().validate(config)
        model, size = kl_model(config), config.data.img_size
        if size and min(size) < SMALLEST_SIDE:
            yield "data.img_size", f"{min(size)} is too small: sides of {SMALLEST_SIDE} or more"
        if model.critic_width % 8:
            yield "model.critic_width", f"{model.critic_width} must be a multiple of 8"
        if model.decoder_only and not config.init.from_:
            yield "model.decoder_only", "needs init.from: the encoder that is kept"
        if model.decoder_only and model.align:
            yield "model.align", "has no effect on an encoder that is kept (model.decoder_only)"
        for key, needed in UNUSED.items():
            if not getattr(model, needed) and has_changed(model, key):
                yield f"model.{key}", f"has no effect without model.{needed}"
        if model.decoder_only and has_changed(model, "kl_weight"):
            yield "model.kl_weight", "has no effect on an encoder that is kept (model.decoder_only)"
        uses = [key for key in ("perceptual", "align") if getattr(model, key)]
        if uses and model.frozen == Path():
            yield f"model.{uses[0]}", "needs model.frozen: a frozen encoder"
        if model.frozen != Path() and not uses:
            yield "model.frozen", "is not used: set model.perceptual or model.align"

    def complete(self, config: Config, manifest: "Manifest") -> Config:
        """Fill in the checksum of the frozen encoder, if there is one.

        Raises UserError where it cannot be read, or reads other channels.
        """
        if kl_model(config).frozen == Path():
            return config
        from mae.objectives.two_stage import complete_first_stage

        completed, theirs = complete_first_stage(config)
        source, ours, theirs = kl_model(config).frozen, config.data, theirs.data
        if theirs.in_chans != ours.in_chans:
            raise UserError(
                f"model.frozen: {source} reads {theirs.in_chans} channels, not {ours.in_chans}"
            )
        return completed

    def completed_keys(self, config: Config) -> set[str]:
        """Keys that `complete` fills in, and the encoder's source, identified by sha256."""
        return {"model.frozen", "model.sha256"}

    def describe(self, config: Config, size: str) -> str:
        """Networks, reduction, latents and size in a few words."""
        model = kl_model(config)
        critic = ", with a critic" if model.adv else ""
        return (
            f"kl, width {model.width}, f{2**model.stages}, {model.latent_dim} latents per "
            f"position, {size}{critic}"
        )

    def next_steps(self, run: Path) -> list[str]:
        """Commands to suggest after a finished run."""
        export, *others = super().next_steps(run)
        return [f"{export} --format diffusers", *others]

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card."""
        model = kl_model(config)
        terms = {
            "perceptual distance": model.perceptual,
            "alignment": model.align,
            "a patch critic": model.adv,
            "equivariance": model.eq,
        }
        used = [name for name, weight in terms.items() if weight]
        return Card(
            "trained as the autoencoder of latent diffusion",
            f"L1 + {model.kl_weight:g} KL" + "".join(f" + {name}" for name in used),
            f"An autoencoder for latent diffusion (Rombach et al. 2021): each square of "
            f"{2**model.stages} x {2**model.stages} pixels becomes {model.latent_dim} numbers.",
            task="image-to-image",
            tags=("vae", "latent-diffusion"),
            code=LATENTS_CODE,
        )

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: PSNR, SSIM and fine detail beside baselines; latents."""
        rows = super().results(metrics, health)
        for key, name in (("ssim", "SSIM"), ("high_frequency", "high-frequency energy")):
            shown = shown_values(
                health,
                (key, "model {:.3f}"),
                (f"{key}_pca", "patch-PCA {:.3f}"),
                (f"{key}_bicubic", "bicubic {:.3f}"),
            )
            rows += held_out(name, health, shown)
        latents = shown_values(
            health,
            ("latent_std", "standard deviation {:.3f}"),
            ("dead_channels", "{:.0f} dead channels"),
            ("max_z", "at most {:.1f} deviations from the mean"),
        )
        return [*rows, *held_out("latents", health, latents)]

    def diagnose(self, run: "RunRecord") -> "Iterator[Finding]":
        """Findings on latents and baselines: see `mae.objectives.kl.diagnosis`."""
        from mae.objectives.kl.diagnosis import diagnose

        yield from super().diagnose(run)
        yield from diagnose(run)


DECLARATION = KlDeclaration()
