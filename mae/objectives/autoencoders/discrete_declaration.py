"""Declaration shared by autoencoders with discrete latents: use of the codes, bits per image."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import exp, log, log2
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mae.config.sections import Config
from mae.config.types import Positive
from mae.objectives.autoencoders.code_level import ONE_LEVEL, CodeLevel
from mae.objectives.autoencoders.declaration import (
    PSNR_CHART,
    AutoencoderDeclaration,
    AutoencoderModel,
    held_out,
    image_numbers,
    reduction,
    shown_values,
)
from mae.objectives.charts import Chart, Curve, Metric

if TYPE_CHECKING:
    from mae.evaluation.diagnosis import Finding
    from mae.evaluation.run_record import RunRecord


CODES_CODE = """\
codes = objective.codes(images)  # integers [1, rows, columns]
again = objective.decode_codes(codes)  # [1, channels, height, width] in [0, 1]
"""

MOST_CODES = 1 << 20
"""maximum number of codes"""


JPEG_CURVE = Curve("psnr_jpeg", "JPEG", "health", is_reference=True)
"""of JPEGs with as many bits, headers not counted; absent where JPEG cannot store the images"""


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


def code_figures(level: CodeLevel, counts: Sequence[float]) -> dict[str, float]:
    """Share of a level's codes in use, their perplexity, and the number of codes counted."""
    return {
        level.key("usage"): usage(counts),
        level.key("perplexity"): perplexity(counts),
        level.key("codes_seen"): sum(counts),
    }


def code_metrics(levels: Sequence[CodeLevel]) -> tuple[Metric, ...]:
    """PSNR, and use of each level's codes."""
    found = [Metric("psnr", "PSNR", ".2f", tile="PSNR, dB")]
    for one in levels:
        found += [
            Metric(one.key("usage"), f"{one.words} used", ".0%"),
            Metric(one.key("perplexity"), f"{one.name} perplexity".strip(), ".0f"),
        ]
    return tuple(found)


def code_charts(levels: Sequence[CodeLevel]) -> tuple[Chart, ...]:
    """PSNR, and use of the codes."""

    def curves(figure: str) -> list[Curve]:
        named = [(one.key(figure), f" {one.name}".rstrip()) for one in levels]
        training = [Curve(key, f"training{name}") for key, name in named]
        return training + [Curve(key, f"held-out{name}", "health") for key, name in named]

    return (
        PSNR_CHART._replace(curves=(*PSNR_CHART.curves, JPEG_CURVE)),
        Chart("Codes used between two reports", curves("usage"), is_share=True),
        Chart("Perplexity of the codes", curves("perplexity"), axis_includes=1.0),
    )


class DiscreteDeclaration(AutoencoderDeclaration):
    """Declaration of an autoencoder with codes."""

    model = DiscreteModel
    offers = ("reconstructions", "latents", "codes")
    levels: ClassVar[Sequence[CodeLevel]] = ONE_LEVEL
    """levels of the codes, the coarsest first"""
    statistics: ClassVar = {"psnr": "mean", "uses": "sum"}
    metrics = code_metrics(ONE_LEVEL)
    charts = code_charts(ONE_LEVEL)
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

    def why_no_path(self, config: Config) -> str:
        """Reason: the decoder knows vectors of codes alone."""
        return (
            "its latents are codes, and there is nothing between two codes: its decoder knows the "
            "vectors of codes alone; take an objective with continuous latents, such as vae"
        )

    @abstractmethod
    def num_codes(self, config: Config) -> int:
        """Number of different codes of each level."""

    def bits(self, config: Config) -> float | None:
        """Bits per image without entropy coding; None where only the built encoder knows."""
        positions = self.positions(config)
        return sum(positions) * log2(self.num_codes(config)) if positions else None

    def positions(self, config: Config) -> list[int]:
        """Codes per image of each level; none where only the built encoder knows."""
        side = reduction(config)
        if side is None or config.data.img_size is None:
            return []
        height, width = config.data.img_size
        sides = [side * level.stride for level in self.levels]
        return [(height // one) * (width // one) for one in sides]

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings that conflict, and codes that hold the whole image."""
        yield from super().validate(config)
        bits, whole = self.bits(config), image_numbers(config)
        if bits and whole and bits >= whole * config.data.bits:
            yield (
                "model.stages",
                f"codes of {bits:,.0f} bits per image are no bottleneck for images of "
                f"{whole * config.data.bits:,}: choose fewer codes, or more stages",
            )

    def cautions(self, config: Config, images: int) -> "Iterator[Finding]":
        """Findings of any autoencoder, and on more codes than the images can use."""
        from mae.objectives.autoencoders.cautions import about_codebook

        yield from super().cautions(config, images)
        for positions in self.positions(config)[:1]:  # the fewest, of the coarsest level
            yield from about_codebook(self.num_codes(config), positions, images)

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """PSNR, share of the codes in use, and perplexity, of the images since the last report."""
        psnr = statistics["psnr"]
        assert isinstance(psnr, float)
        found = {"psnr": psnr}
        for level in self.levels:
            uses = statistics[level.key("uses")]
            assert isinstance(uses, list)
            found |= code_figures(level, uses)
        return found

    def describe(self, config: Config, size: str) -> str:
        """Networks, number of codes, bits per image and size in a few words."""
        bits = self.bits(config)
        per_image = f", {bits:,.0f} bits per image" if bits else ""
        return f"{super().describe(config, size)}, {self.num_codes(config):,} codes{per_image}"

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: PSNR beside baselines, use of the codes, bits per pixel."""
        formats = []
        for level in self.levels:
            of = f"{level.name}: " if level.name else ""
            formats += [
                (level.key("usage"), of + "{:.0%} of the codes used"),
                (level.key("perplexity"), "perplexity {:.0f}"),
            ]
        bits = ("bits_per_pixel", "{:.3f} bits per pixel without entropy coding")
        shown = shown_values(health, *formats, bits)
        return [*super().results(metrics, health), *held_out("codes", health, shown)]

    def diagnose(self, run: "RunRecord") -> "Iterator[Finding]":
        """Findings of any autoencoder, and on codes that are not used."""
        from mae.objectives.autoencoders.diagnosis import about_codes

        yield from super().diagnose(run)
        codes = self.recorded_codes(run.settings)
        for level in self.levels:
            yield from about_codes(run, level, codes, self.collapse_remedy, self.collapse_level)

    @abstractmethod
    def recorded_codes(self, settings: Mapping[str, Any]) -> int:
        """Number of different codes of each level by recorded settings, dotted key → value."""
