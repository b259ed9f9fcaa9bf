"""Declaration shared by autoencoders with discrete latents: use of the codes, bits per image."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from math import exp, log, log2
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mae.config.sections import Config
from mae.config.types import Positive
from mae.objectives.autoencoders.declaration import (
    PSNR_CHART,
    AutoencoderDeclaration,
    AutoencoderModel,
    held_out,
    reduction,
    shown_values,
)
from mae.objectives.declaration import Chart, Curve, Metric

if TYPE_CHECKING:
    from mae.evaluation.diagnosis import Finding, RunRecord


CODES_CODE = """\
codes = objective.codes(images)  # integers [1, rows, columns]
again = objective.decode_codes(codes)  # [1, channels, height, width] in [0, 1]
"""

MOST_CODES = 1 << 20
"""maximum number of codes"""


class DiscreteModel(AutoencoderModel):
    """Networks of an autoencoder with a map of codes as latents."""

    latent: Literal["map"] = "map"
    """a grid with one code for each square of 2^stages pixels (vit: for each patch)"""
    latent_dim: Positive = 64
    """numbers in the vector that a code stands for"""


def usage(counts: Iterable[float]) -> float:
    """Share of the codes that are used at least once."""
    used = [count > 0 for count in counts]
    return sum(used) / max(len(used), 1)


def entropy(counts: Iterable[float]) -> float:
    """Entropy of the codes' frequencies in nats."""
    counts = list(counts)
    total = sum(counts)
    shares = [count / total for count in counts if count > 0] if total else []
    return -sum(share * log(share) for share in shares)


def perplexity(counts: Iterable[float]) -> float:
    """Exp of the entropy of the codes' use: 1 (a single code) to their number (all equally)."""
    return exp(entropy(counts))


class DiscreteDeclaration(AutoencoderDeclaration):
    """Declaration of an autoencoder with codes."""

    model = DiscreteModel
    statistics: ClassVar = {"psnr": "mean", "uses": "sum"}
    metrics = (
        Metric("psnr", "PSNR", ".2f", tile="PSNR, dB"),
        Metric("usage", "codes used", ".0%"),
        Metric("perplexity", "perplexity", ".0f"),
    )
    charts = (
        PSNR_CHART,
        Chart(
            "Codes used between two reports",
            (Curve("usage", "training"), Curve("usage", "held-out", "health")),
            is_share=True,
        ),
        Chart(
            "Perplexity of the codes",
            (Curve("perplexity", "training"), Curve("perplexity", "held-out", "health")),
            axis_includes=1.0,
        ),
    )
    about_learning = (
        "PSNR is the mean over images, in dB, of pixels in [0, 1]; higher is better. PCA keeps as "
        "many bits per image as the codes, one byte per number. Perplexity is the effective number "
        "of codes: 1 where all images use a single one, all of them where all are used equally."
    )

    collapse_remedy: ClassVar[str]
    """advice where few codes are used"""
    collapse_level: ClassVar[Literal["watch", "bad"]] = "bad"
    """level of that finding"""

    def is_regularised(self, config: Config) -> bool:
        """True: codes hold less than the numbers of an image."""
        return True

    @abstractmethod
    def num_codes(self, config: Config) -> int:
        """Number of different codes."""

    def bits(self, config: Config) -> float | None:
        """Bits per image without entropy coding; None where only the built encoder knows."""
        side = reduction(config)
        if side is None or config.data.img_size is None:
            return None
        height, width = config.data.img_size
        return (height // side) * (width // side) * log2(self.num_codes(config))

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """PSNR, share of the codes in use, and perplexity, of the images since the last report."""
        psnr, uses = statistics["psnr"], statistics["uses"]
        assert isinstance(psnr, float) and isinstance(uses, list)
        shares = {"usage": usage(uses), "perplexity": perplexity(uses)}
        return {"psnr": psnr, **shares, "codes_seen": sum(uses)}

    def describe(self, config: Config, size: str) -> str:
        """Networks, number of codes, bits per image and size in a few words."""
        bits = self.bits(config)
        per_image = f", {bits:,.0f} bits per image" if bits else ""
        return f"{super().describe(config, size)}, {self.num_codes(config):,} codes{per_image}"

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: PSNR beside baselines, use of the codes, bits per pixel."""
        shown = shown_values(
            health,
            ("usage", "{:.0%} of the codes used"),
            ("perplexity", "perplexity {:.0f}"),
            ("bits_per_pixel", "{:.3f} bits per pixel without entropy coding"),
        )
        return [*super().results(metrics, health), *held_out("codes", health, shown)]

    def diagnose(self, run: "RunRecord") -> "Iterator[Finding]":
        """Findings of any autoencoder, and on codes that are not used."""
        from mae.objectives.autoencoders.diagnosis import about_codes

        yield from super().diagnose(run)
        codes = self.recorded_codes(run.settings)
        yield from about_codes(run, codes, self.collapse_remedy, self.collapse_level)

    @abstractmethod
    def recorded_codes(self, settings: Mapping[str, Any]) -> int:
        """Number of different codes by a run's recorded settings, dotted key → value."""
