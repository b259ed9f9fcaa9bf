"""Settings, figures and words of classification."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mae import __version__
from mae.base.errors import UserError
from mae.config.sections import Config
from mae.config.types import Fraction, NonNegative, Rate, Section, Share, Text
from mae.evaluation.diagnosis import RunRecord, number
from mae.objectives.declaration import Card, Chart, Curve, Declaration, Level, Metric
from mae.objectives.sections import VitModel, refuse_arguments

if TYPE_CHECKING:
    from mae.data.manifest import Manifest
    from mae.evaluation.diagnosis import Finding

STRAY = 10
"""so many times more classes than different labels are taken for a mistake"""


class ClassifierModel(VitModel):
    """Encoder by its timm name; the head follows from the classes."""


class FinetuneConfig(Section):
    """Head, regularisation and augmentation (`mae finetune` knows the recipe for each size)."""

    num_classes: NonNegative = 0
    """classes (0: as many as the training labels go up to)"""
    global_pool: Literal["avg", "token"] = "avg"
    """what the classifier reads: the normalised mean of the patch tokens, or the class token"""
    layer_decay: Share = 0.65
    """the learning rate of each layer, as a share of the next one's"""
    drop_path: Fraction = 0.1
    """probability of skipping the last block for a sample; falls linearly to 0 at the first"""
    label_smoothing: Fraction = 0.1
    """share of the target that is spread over all classes"""
    mixup: Rate = 0.8
    """alpha of mixup (0: none)"""
    cutmix: Rate = 1.0
    """alpha of cutmix (0: none); each batch is mixed in one of the two ways"""
    rand_augment: Text = "rand-m9-mstd0.5-inc1"
    """timm's name for a policy of RandAugment ("": none); for 8-bit colour images"""
    random_erasing: Fraction = 0.25
    """probability that a box of an image is filled with noise"""


def finetune_of(config: Config) -> FinetuneConfig:
    """The section `finetune:` of a run with this objective."""
    section = getattr(config, "finetune", None)
    assert isinstance(section, FinetuneConfig)
    return section


def model_of(config: Config) -> ClassifierModel:
    """The section `model:` of a run with this objective."""
    assert isinstance(config.model, ClassifierModel)
    return config.model


def chance(run: RunRecord) -> float | None:
    """Accuracy of guessing, by the number of classes in a run's settings."""
    classes = number(run.settings, "finetune.num_classes")
    return 1 / classes if classes else None


class ClassifierDeclaration(Declaration):
    """Classification with labels."""

    name = "classifier"
    summary = "classes from labels, by all of fine-tuning's regularisers (He et al. 2021, table 9)"
    command = "mae finetune"
    model = ClassifierModel
    section = ("finetune", FinetuneConfig)
    renamed_keys = {"finetune.ema": "train.ema"}
    losses = ("cross_entropy",)
    statistics = {"right": "mean", "confidence": "mean"}
    metrics = (
        Metric("accuracy", "accuracy", ".1%", tile="training accuracy"),
        Metric("confidence", "confidence", ".1%", on_progress_line=False),
    )
    loss_chart = Chart("Loss", (Curve("loss", "training"), Curve("loss", "held-out", "health")))
    charts = (
        Chart(
            "Accuracy",
            (
                Curve("accuracy", "training"),
                Curve("accuracy", "held-out", "health", interval="interval"),
                Curve("balanced_accuracy", "mean of classes", "health"),
            ),
            is_share=True,
            levels=(Level("chance", chance),),
        ),
    )
    about_learning = (
        "Training figures are of augmented and mixed images with softened labels, as far as the "
        "recipe asks for these. Held-out images are clean, so that theirs may well be better; the "
        "band is their 95 % interval."
    )
    panels_title = ""
    needs_img_size = False
    needs_labels = True
    supervises_encoder = True
    offers = ("patch tokens", "class scores")

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """Accuracy on the training images as they were mixed: mostly below that on clean ones."""
        right, confidence = statistics["right"], statistics["confidence"]
        assert isinstance(right, float) and isinstance(confidence, float)
        return {"accuracy": right, "confidence": confidence}

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """(key, message) of settings that do not go together."""
        data, finetune, model = config.data, finetune_of(config), model_of(config)
        yield from refuse_arguments(model)
        if data.mixture or data.repeats > 1:
            yield "objective", "classifier: data.mixture and data.repeats are for pretraining"
        if "drop_path_rate" in model.encoder_kwargs:
            yield "model.encoder_kwargs.drop_path_rate", "is set elsewhere (finetune.drop_path)"
        if finetune.num_classes == 1:
            yield "finetune.num_classes", "1 class leaves nothing to learn"
        if finetune.rand_augment and (data.bits != 8 or data.in_chans != 3):
            what = f"{data.in_chans} channels of {data.bits} bits"
            yield "finetune.rand_augment", f"is for colour images, not for {what}: set it to ''"
        for key in ("crop_on_device", "decode_on_device"):
            if finetune.rand_augment and getattr(data, key):
                yield f"data.{key}", "leaves no crops to finetune.rand_augment: set one to nothing"

    def settings_from(self, source: Path, overrides: Sequence[str]) -> Config:
        """Settings of `mae finetune SOURCE`; raises UserError as `finetune_settings` does."""
        from mae.objectives.classifier.recipe import finetune_settings

        return finetune_settings(source, overrides)

    def describe_recipe(self) -> str:
        """The recipe of `settings`, for --help."""
        from mae.objectives.classifier.recipe import describe_recipe

        return describe_recipe()

    def complete(self, config: Config, manifest: Manifest) -> Config:
        """Settings with the number of classes, where finetune.num_classes leaves it open.

        Raises UserError where the training data has samples without a label, or beyond.
        """
        import numpy as np

        from mae.data.class_names import named_classes
        from mae.data.manifest import require_labels

        self.augmentation(config, (1, 1))  # refuses an unknown policy now, not in the run
        finetune = finetune_of(config)
        labels = require_labels(manifest, "data.train")
        wanted, found = finetune.num_classes, int(labels.max()) + 1
        if not wanted and found > STRAY * len(np.unique(labels)):
            raise UserError(
                f"finetune.num_classes: labels go up to {found - 1} (first "
                f"{manifest.name(int(labels.argmax()))}), but only {len(np.unique(labels))} "
                "different ones occur: set it if that is meant"
            )
        if wanted and wanted < found:
            first = manifest.name(int((labels >= wanted).argmax()))
            raise UserError(
                f"finetune.num_classes: {wanted}, but labels go up to {found - 1}, first {first}"
            )
        named = named_classes(manifest.shards)
        if wanted and wanted < named:
            raise UserError(f"finetune.num_classes: {wanted}, but classes.txt names {named}")
        counted = {"num_classes": wanted or max(2, found, named)}
        return config.model_copy(update={"finetune": finetune.model_copy(update=counted)})

    def completed_keys(self, config: Config) -> set[str]:
        """Settings that `complete` fills in."""
        return set() if finetune_of(config).num_classes else {"finetune.num_classes"}

    def batch_multiple(self, config: Config) -> tuple[int, str]:
        """Pairs, where images are mixed."""
        finetune = finetune_of(config)
        if finetune.mixup or finetune.cutmix:
            return (
                2,
                "mixup and cutmix need an even number (train.max_device_batch, finetune.mixup)",
            )
        return 1, ""

    def augmentation(self, config: Config, img_size: tuple[int, int]) -> Callable[..., Any] | None:
        """RandAugment, where the settings name a policy."""
        policy = finetune_of(config).rand_augment
        if not policy:
            return None
        from mae.data.transform import build_augment

        return build_augment(policy, config.data.mean, img_size, "finetune.rand_augment")

    def write_run_files(self, config: Config, run: Path) -> None:
        """Write the names of the classes into the folder of a new run."""
        from mae.data.class_names import keep_class_names

        keep_class_names(config.data.train, finetune_of(config).num_classes, run)

    def describe(self, config: Config, size: str) -> str:
        """The model of `size`, in a few words."""
        classes = finetune_of(config).num_classes
        return f"{model_of(config).encoder}, {size} with the head for {classes} classes"

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """The model card's words on this model and its training."""
        use = finetune_of(config)
        trained = "trained from scratch on" if is_from_scratch else "fine-tuned to"
        return Card(
            f"{trained} {use.num_classes} classes by mae {__version__}",
            f"cross-entropy; label smoothing {use.label_smoothing}, mixup {use.mixup}, cutmix "
            f"{use.cutmix}, random erasing {use.random_erasing}, RandAugment "
            f"{use.rand_augment or 'none'}, drop path {use.drop_path}, layer decay "
            f"{use.layer_decay}",
            task="image-classification",
        )

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """(figure, value) for the model card: the loss; accuracy on mixed images means little."""
        return super().results({k: v for k, v in metrics.items() if k != "accuracy"}, health)

    def history(self, config: Config) -> str:
        """The objective in a few words, for the model cards of what starts from its weights."""
        return f"classification into {finetune_of(config).num_classes} classes"

    def diagnose(self, run: RunRecord) -> Iterable[Finding]:
        """Findings on accuracy, overfitting and single classes."""
        from mae.objectives.classifier.diagnosis import diagnose

        return diagnose(run)


DECLARATION = ClassifierDeclaration()
