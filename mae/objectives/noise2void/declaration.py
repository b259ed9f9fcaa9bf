"""Declaration of blind-spot denoising, and of denoising from pairs."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.config.types import Positive, Section
from mae.objectives.autoencoders.declaration import DEFAULTS, held_out, shown_values
from mae.objectives.charts import Chart, Curve, Metric
from mae.objectives.declaration import Card, DataNeeds, Declaration

if TYPE_CHECKING:
    from mae.data.manifest import Manifest
    from mae.evaluation.diagnosis import Finding
    from mae.evaluation.run_record import RunRecord

DENOISE_CODE = """\
clean = objective.denoise(images)  # of integers [b, channels, height, width] of any size, in [0, 1]
"""


class Noise2VoidModel(Section):
    """U-Net, and how it learns from noisy images."""

    method: Literal["noise2void", "noise2noise"] = "noise2void"
    """noise2void: hidden pixels of noisy images are predicted from their surroundings; noise2noise:
    KEY.b is predicted from KEY.a, pictures of one scene whose noise is independent"""
    width: Positive = 32
    """channels at full resolution, doubled at each halving"""
    stages: Annotated[int, Field(ge=1, le=5)] = 2
    """number of halvings of the image's sides"""
    depth: Positive = 2
    """convolutions at each resolution, on both ways"""
    grid: Annotated[int, Field(ge=2, le=64)] = 4
    """noise2void: side in pixels of the squares in each of which one pixel is hidden (22: the 0.2 %
    of the paper)"""
    replacement: Literal["interpolation", "neighbour"] = "interpolation"
    """noise2void: value in place of a hidden pixel: interpolation, mean of the pixels around it;
    neighbour, a random one, not itself"""
    radius: Positive = 2
    """noise2void: maximum distance of that neighbour, in rows and columns"""
    allow_correlated: bool = False
    """noise2void: train on noise that is correlated between pixels, too, which then remains"""
    noise_autocorrelation: float | None = None
    """measured on the training images at the start (no setting)"""


def model_of(config: Config) -> Noise2VoidModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, Noise2VoidModel)
    return config.model


def ignored(model: Noise2VoidModel) -> tuple[str, ...]:
    """Settings that the chosen method does not use."""
    if model.method == "noise2noise":
        return "grid", "replacement", "radius", "allow_correlated"
    return ("radius",) if model.replacement == "interpolation" else ()


class Noise2VoidDeclaration(Declaration):
    """Denoising without clean images."""

    name = "noise2void"
    summary = "denoising from noisy images alone, or from noisy pairs (Krull et al. 2019)"
    model = Noise2VoidModel
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **DEFAULTS,
        "optim": {**DEFAULTS["optim"], "lr": 1e-3},
    }
    losses = ("noisy_pixels",)
    loss_settings = ("model.method",)
    statistics: ClassVar = {"psnr_target": "mean"}
    metrics = (Metric("psnr_target", "PSNR of noisy targets", ".2f", tile="PSNR, dB"),)
    charts = (
        Chart(
            "PSNR (dB)",
            (
                Curve("psnr_target", "noisy targets, training"),
                Curve("psnr_target", "noisy targets, held-out", "health"),
                Curve("psnr_interpolated", "mean of the neighbours", "health", is_reference=True),
                Curve("psnr", "result against the second image", "health"),
                Curve("psnr_plain", "in one pass that hides nothing", "health"),
                Curve("psnr_noisy", "noisy image", "health", is_reference=True),
            ),
        ),
        Chart(
            "What was removed",
            (
                Curve("residual_autocorrelation", "autocorrelation", "health"),
                Curve("residual_correlation", "correlation with the result", "health"),
            ),
        ),
    )
    about_learning = (
        "The targets are noisy: PSNR cannot exceed that of the noise itself, however good the "
        "result, but must exceed that of the mean of the neighbours. What was removed, noisy less "
        "denoised image, must look like noise: neither correlated from pixel to pixel, nor with "
        "the result."
    )
    panels_title = "Denoised images"
    offers = ("reconstructions", "denoised images")
    tag = "denoising"
    shardable = False

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """PSNR of the noisy targets."""
        psnr = statistics["psnr_target"]
        assert isinstance(psnr, float)
        return {"psnr_target": psnr}

    def data_needs(self, config: Config) -> DataNeeds:
        """Pixels as they were measured: no resampling, no lossy files; pairs for noise2noise."""
        is_paired = model_of(config).method == "noise2noise"
        return DataNeeds(
            native_crops=True,
            quarter_turns=True,
            lossless=True,
            pairs="targets" if is_paired else "references",
        )

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for crops that do not suit the networks, and unused settings."""
        model, size = model_of(config), config.data.img_size
        side = max(2**model.stages, 4)
        if size and any(length % side for length in size):
            yield "data.img_size", f"{size[0]} x {size[1]} must be multiples of {side}"
        if size and model.method == "noise2void" and min(size) < 2 * model.grid:
            yield "model.grid", f"squares of {model.grid} pixels are too large for the images"
        for key in ignored(model):
            if getattr(model, key) != getattr(Noise2VoidModel(), key):
                chosen = f"method={model.method} and replacement={model.replacement}"
                yield f"model.{key}", f"has no effect with {chosen}: remove it"

    def complete(self, config: Config, manifest: "Manifest") -> Config:
        """Measure the noise of the training images, and record its autocorrelation.

        Raises UserError where neighbouring pixels share their noise, so that a blind spot can be
        predicted from it.
        """
        model = model_of(config)
        if model.method == "noise2noise":
            update = {"model": model.model_copy(update={"noise_autocorrelation": None})}
            return config.model_copy(update=update)
        from mae.data.noise import measure_noise
        from mae.data.opening import images_for
        from mae.objectives.noise2void.diagnosis import MOST_CORRELATED

        noise = measure_noise(images_for(config, manifest))
        found = None if noise is None else round(noise.autocorrelation, 4)
        if found is not None and abs(found) > MOST_CORRELATED and not model.allow_correlated:
            raise UserError(
                f"data.train: the noise is correlated: {found:.2f} between neighbouring pixels, "
                f"beyond ±{MOST_CORRELATED}, or the images hold hardly any noise. A blind spot "
                "would be predicted from the noise around it: give the pixels as the sensor "
                "recorded them (not resized, sharpened, demosaiced or recompressed), or pairs with "
                "model.method=noise2noise; model.allow_correlated=true goes on"
            )
        update = {"model": model.model_copy(update={"noise_autocorrelation": found})}
        return config.model_copy(update=update)

    def completed_keys(self, config: Config) -> set[str]:
        """The measured autocorrelation."""
        return {"model.noise_autocorrelation"}

    def trains_vit(self, config: Config) -> bool:
        """False: a U-Net."""
        return False

    def cautions(self, config: Config, images: int) -> "Iterator[Finding]":
        """Findings on the measured noise: see `mae.objectives.noise2void.diagnosis`."""
        from mae.objectives.noise2void.diagnosis import about_noise, without_noise

        model = model_of(config)
        if model.method == "noise2void":
            yield from about_noise(model.noise_autocorrelation)
            yield from without_noise(model.noise_autocorrelation)

    def diagnose(self, run: "RunRecord") -> "Iterator[Finding]":
        """Findings on noise that a blind spot cannot remove, and on results that are no better."""
        from mae.objectives.noise2void.diagnosis import findings

        yield from findings(run)

    def warn(self, run: "RunRecord") -> "Iterable[Finding]":
        """The same findings, while the run goes on."""
        return self.diagnose(run)

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: held-out measures beside the baselines."""
        shown = shown_values(
            health,
            ("psnr_target", "predicted noisy pixels {:.2f} dB"),
            ("psnr_interpolated", "mean of their neighbours {:.2f} dB"),
            ("psnr", "against the second image {:.2f} dB"),
            ("psnr_noisy", "noisy image {:.2f} dB"),
        )
        return [*super().results(metrics, health), *held_out("PSNR", health, shown)]

    def describe(self, config: Config, size: str) -> str:
        """Method, network and size in a few words."""
        model = model_of(config)
        return f"{model.method}, U-Net {model.width} x {model.stages} stages, {size}"

    def history(self, config: Config) -> str:
        """Training in a few words, for the cards of models that start from its weights."""
        return model_of(config).method

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card: how it was trained, and what it is for."""
        blind = (
            "hidden pixels of noisy images were predicted from their surroundings, and no clean "
            "image was used. It removes noise that is independent from pixel to pixel, of the kind "
            "that it was trained on. Each pixel of a result comes from a pass that hid it"
        )
        pairs = "one noisy image of a scene was predicted from another"
        is_blind = model_of(config).method == "noise2void"
        papers = "Krull et al. 2019; Batson and Royer 2019" if is_blind else "Lehtinen et al. 2018"
        return Card(
            "trained as a denoiser without clean images",
            f"{model_of(config).method}: noisy pixels from the noisy image around them"
            if is_blind
            else "noise2noise: one noisy image from another of the same scene",
            f"A denoiser ({papers}): {blind if is_blind else pairs}. Images must not be resized or "
            "recompressed before.",
            task="image-to-image",
            code=DENOISE_CODE,
        )


DECLARATION = Noise2VoidDeclaration()
