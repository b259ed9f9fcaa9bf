"""Declaration of the adversarial autoencoder."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mae.config.sections import Config
from mae.config.types import Fraction, Positive, Rate
from mae.objectives.autoencoders.declaration import (
    LATENTS_CODE,
    PSNR_CHART,
    SAMPLE_CODE,
    AutoencoderDeclaration,
    AutoencoderModel,
    held_out,
    shown_values,
)
from mae.objectives.charts import Chart, Curve, Metric
from mae.objectives.declaration import Card

if TYPE_CHECKING:
    from mae.evaluation.diagnosis import Finding
    from mae.evaluation.run_record import RunRecord


class AaeModel(AutoencoderModel):
    """Networks and critic of an adversarial autoencoder."""

    latent: Literal["vector"] = "vector"
    """one vector of latents for the whole image, which the critic compares with the prior"""
    latent_dim: Positive = 8
    """numbers in it: the fewer, the easier they follow the prior"""
    adv: Rate = 0.1
    """weight of the critic's verdict on the latents: the larger, the worse are the reconstructions;
    far above 0.1 the latents' means swing about the prior's"""
    adv_warmup: Fraction = 0.1
    """share of the run over which this weight rises linearly from 0; the critic itself is trained
    from the first step"""
    critic_width: Positive = 128
    """width of the critic's two hidden layers, a multiple of 2"""
    critic_lr_scale: Rate = 5.0
    """learning rate of the critic as a multiple of the others': a slow one lets the latents' mean
    swing about the prior's"""


def aae_model(config: Config) -> AaeModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, AaeModel)
    return config.model


class AaeDeclaration(AutoencoderDeclaration):
    """Adversarial autoencoder."""

    name = "aae"
    summary = "adversarial autoencoder: a critic matches latents to N(0, 1) (Makhzani et al. 2015)"
    model = AaeModel
    offers = ("reconstructions", "latents", "latents to decode", "samples")
    losses = ("reconstruction", "critic", "generator")
    loss_settings = ("model.adv",)
    guarded_loss = "reconstruction"
    statistics: ClassVar = {"psnr": "mean", "distance": "mean"}
    metrics = (
        Metric("psnr", "PSNR", ".2f", tile="PSNR, dB"),
        Metric("distance", "distance", ".3f", tile="distance of latents and prior"),
    )
    charts = (
        PSNR_CHART,
        Chart("Distance of latents and prior, by the critic", (Curve("distance", "training"),)),
        Chart(
            "Standard deviation of the latents (of the prior: 1)",
            (
                Curve("std_smallest", "smallest", "health"),
                Curve("std_largest", "largest", "health"),
            ),
            axis_includes=1.0,
        ),
        Chart(
            "Kolmogorov-Smirnov distance of a latent from N(0, 1)",
            (Curve("ks", "mean", "health"), Curve("ks_largest", "largest", "health")),
            floor=0.0,
        ),
    )
    about_learning = (
        "The critic estimates the Wasserstein distance between latents and prior from below; the "
        "encoder lowers it. Loss terms of critic and encoder (generator) go up and down, and the "
        "sum may be negative: the guard watches the reconstruction alone. "
        f"{AutoencoderDeclaration.about_learning}"
    )

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """PSNR, and the critic's estimate of the distance between latents and prior."""
        values = {key: statistics[key] for key in ("psnr", "distance")}
        return {key: value for key, value in values.items() if isinstance(value, float)}

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings that conflict."""
        yield from super().validate(config)
        width = aae_model(config).critic_width
        if width % 2:
            yield "model.critic_width", f"{width} must be even: the critic sorts numbers in pairs"

    def why_no_samples(self, config: Config) -> str:
        """Reason where the latents are not matched to the prior."""
        if aae_model(config).adv > 0:
            return ""
        return (
            "trained with model.adv=0: its latents do not follow the prior, and samples would be "
            "noise; train with 0.1"
        )

    def latent_path(self, config: Config) -> Literal["line", "sphere"]:
        """Sphere where the latents follow the prior."""
        return "line" if self.why_no_samples(config) else "sphere"

    def next_steps(self, run: Path) -> list[str]:
        """Commands to suggest after a finished run: samples, export, report."""
        return [shlex.join(["mae", "sample", str(run)]), *super().next_steps(run)]

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card."""
        model = aae_model(config)
        return Card(
            "trained as an adversarial autoencoder",
            f"mean squared error through {model.latent_dim} latents, matched to N(0, 1) by a "
            f"Wasserstein critic with weight {model.adv:g}",
            "An adversarial autoencoder (Makhzani et al. 2015): a critic with a Lipschitz constant "
            "of 1 moves the latents towards a standard normal prior, so that images can be "
            "sampled.",
            code=LATENTS_CODE + SAMPLE_CODE,
        )

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: PSNR beside baselines, moments of the latents."""
        shown = shown_values(
            health,
            ("std_smallest", "smallest standard deviation {:.2f}"),
            ("std_largest", "largest {:.2f}"),
            ("mean_largest", "largest mean {:.2f}"),
            ("ks_largest", "largest Kolmogorov-Smirnov distance from N(0, 1) {:.2f}"),
        )
        return [*super().results(metrics, health), *held_out("latents", health, shown)]

    def cautions(self, config: Config, images: int) -> "Iterator[Finding]":
        """Findings of any autoencoder, and on a heavy critic."""
        from mae.objectives.aae.diagnosis import about_critic

        yield from super().cautions(config, images)
        yield from about_critic(aae_model(config).adv)

    def diagnose(self, run: "RunRecord") -> "Iterator[Finding]":
        """Findings on latents that miss the prior: see `mae.objectives.aae.diagnosis`."""
        from mae.objectives.aae.diagnosis import diagnose

        yield from super().diagnose(run)
        yield from diagnose(run)


DECLARATION = AaeDeclaration()
