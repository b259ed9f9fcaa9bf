"""Declaration of the variational autoencoder."""

import shlex
from collections.abc import Iterator, Mapping
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from mae.config.sections import Config
from mae.config.types import Fraction, Rate
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


SMALLEST_BETA = 0.01
"""beta below which the latents hardly follow the prior that samples are drawn from"""


class VaeModel(AutoencoderModel):
    """Networks, prior weight and noise model of a variational autoencoder."""

    beta: Rate = 1.0
    """weight of the KL divergence; 1 is the evidence lower bound"""
    beta_warmup: Fraction = 0.1
    """share of the run over which beta rises linearly from 0"""
    free_bits: Rate = 0.0
    """KL divergence in nats per latent that costs nothing (Kingma et al. 2016)"""
    sigma: Annotated[float, Field(gt=0)] = 1.0
    """standard deviation of the pixels' noise, in units of normalised pixels; with learn_sigma the
    initial value"""
    learn_sigma: bool = True
    """learn sigma, one number, at ten times the learning rate"""


def vae_model(config: Config) -> VaeModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, VaeModel)
    return config.model


def level_nats(config: Config) -> float:
    """Nats per value that turn a density of normalised pixels into one of integer levels.

    0 for floats, which have no levels.
    """
    data = config.data
    if data.is_float:
        return 0.0
    white = 2**data.bits - 1
    return sum(log(white * std) for std in data.std) / len(data.std)


class VaeDeclaration(AutoencoderDeclaration):
    """Variational autoencoder."""

    name = "vae"
    summary = "variational autoencoder: latents with a Gaussian prior (Kingma and Welling 2013)"
    model = VaeModel
    reads_floats = True
    offers = ("reconstructions", "latents", "latents to decode", "samples")
    losses = ("reconstruction", "kl")
    loss_settings = ("model.beta", "model.free_bits", "model.sigma", "model.learn_sigma")
    statistics: ClassVar = {"psnr": "mean", "kl_nats": "mean", "nll": "mean"}
    metrics = (
        Metric("psnr", "PSNR", ".2f", tile="PSNR, dB"),
        Metric("kl_nats", "KL", ".1f", tile="KL, nats per image"),
        Metric("bits", "bits/dim", ".2f", tile="bits per value"),
    )
    charts = (
        PSNR_CHART,
        Chart(
            "KL divergence (nats per image)",
            (Curve("kl_nats", "training"), Curve("kl_nats", "held-out", "health")),
        ),
        Chart(
            "Bound on the bits per value",
            (Curve("bits", "training"), Curve("bits", "held-out", "health")),
        ),
    )
    about_learning = (
        "The bound (negative evidence lower bound) is in bits per pixel and channel, of integer "
        "levels; lower is better. The loss is the same bound in other units, and may be negative. "
        "Where sigma falls below one level the bits are too few: pixels count as continuous. "
        f"{AutoencoderDeclaration.about_learning}"
    )

    def is_regularised(self, config: Config) -> bool:
        """True where the KL divergence counts."""
        return vae_model(config).beta > 0

    def why_no_samples(self, config: Config) -> str:
        """Reason where beta is so small that the prior is hardly learned."""
        beta = vae_model(config).beta
        if beta >= SMALLEST_BETA:
            return ""
        return (
            f"trained with model.beta={beta:g}: its latents do not follow the prior, and samples "
            f"would be noise; train with {SMALLEST_BETA:g} or more"
        )

    def latent_path(self, config: Config) -> Literal["line", "sphere"]:
        """Sphere where the latents follow the prior."""
        return "line" if self.why_no_samples(config) else "sphere"

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """PSNR, KL divergence in nats per image, and bits per value at beta 1."""
        psnr, kl, nll = (statistics[key] for key in ("psnr", "kl_nats", "nll"))
        assert isinstance(psnr, float) and isinstance(kl, float) and isinstance(nll, float)
        return {"psnr": psnr, "kl_nats": kl, "bits": nll / log(2)}

    def next_steps(self, run: Path) -> list[str]:
        """Commands to suggest after a finished run: samples, export, report."""
        return [shlex.join(["mae", "sample", str(run)]), *super().next_steps(run)]

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card."""
        model = vae_model(config)
        return Card(
            "trained as a variational autoencoder",
            f"evidence lower bound with beta {model.beta:g}, {model.latent_dim} latents",
            "A variational autoencoder (Kingma and Welling 2013): its latents follow a standard "
            "normal prior, so that images can be sampled.",
            tags=("vae",),
            code=LATENTS_CODE + SAMPLE_CODE,
        )

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: PSNR beside baselines, the bound, active latents."""
        shown = shown_values(
            health,
            ("bits", "bound on the bits per value {:.2f}"),
            ("kl_nats", "KL {:.1f} nats"),
            ("active", "{:.0%} of the latents active"),
        )
        return [*super().results(metrics, health), *held_out("latents", health, shown)]

    def cautions(self, config: Config, images: int) -> "Iterator[Finding]":
        """Findings of any autoencoder, and on a weight of the prior that is far above usual."""
        from mae.objectives.vae.diagnosis import about_beta

        yield from super().cautions(config, images)
        yield from about_beta(vae_model(config).beta)

    def diagnose(self, run: "RunRecord") -> "Iterator[Finding]":
        """Findings on collapse of the posterior: see `mae.objectives.vae.diagnosis`."""
        from mae.objectives.vae.diagnosis import diagnose

        yield from super().diagnose(run)
        yield from diagnose(run)


DECLARATION = VaeDeclaration()
