"""Declaration of classification: settings, metrics and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mae import __version__
from mae.base.errors import UserError
from mae.config.sections import Config
from mae.config.types import Fraction, NonNegative, Rate, Section, Share, Text
from mae.evaluation.run_record import RunRecord, number
from mae.objectives.charts import Chart, Curve, Level, Metric
from mae.objectives.declaration import Card, Declaration
from mae.objectives.shared_sections import VitModel, refuse_arguments

if TYPE_CHECKING:
    from mae.data.manifest import Manifest
    from mae.evaluation.diagnosis import Finding

MAX_LABEL_RATIO = 10
"""number of classes per different label above which the labels are refused as a mistake"""


class ClassifierModel(VitModel):
    """Encoder of timm, with a linear head for the classes."""


class FinetuneConfig(Section):
    """Head, regularisation and augmentation of fine-tuning."""

    num_classes: NonNegative = 0
    """number of classes (0: the largest training label + 1)"""
    global_pool: Literal["avg", "token"] = "avg"
    """input of the head: the normalised mean of the patch tokens, or the class token"""
    layer_decay: Share = 0.65
    """learning rate of each layer as a share of the next layer's"""
    drop_path: Fraction = 0.1
    """probability of skipping the last block for a sample (linear from 0 at the first block)"""
    label_smoothing: Fraction = 0.1
    """share of the target that is spread evenly over all classes"""
    mixup: Rate = 0.8
    """alpha of mixup (0: none)"""
    cutmix: Rate = 1.0
    """alpha of cutmix (0: none); with mixup, one of the two is chosen for each batch"""
    rand_augment: Text = "rand-m9-mstd0.5-inc1"
    """RandAugment policy by its timm name ("": none); for 8-bit colour images"""
    random_erasing: Fraction = 0.25
    """probability of filling a box of the image with noise"""


def finetune_of(config: Config) -> FinetuneConfig:
    """Section `finetune:` of a run with this objective."""
    section = getattr(config, "finetune", None)
    assert isinstance(section, FinetuneConfig)
    return section


def model_of(config: Config) -> ClassifierModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, ClassifierModel)
    return config.model


def chance(run: RunRecord) -> float | None:
    """Accuracy of guessing: 1 / number of classes in the run's settings."""
    classes = number(run.settings, "finetune.num_classes")
    return 1 / classes if classes else None


def images_in_words(channels: int, bits: int) -> str:
    """Images that RandAugment cannot change, in words; "" for colour images of 8 bits."""
    if bits == 8 and channels == 3:
        return ""
    return f"{channels} channel{'s' * (channels > 1)} of {bits} bits"


class ClassifierDeclaration(Declaration):
    """Declaration of classification."""

    name = "classifier"
    summary = "classification with the regularisation of fine-tuning (He et al. 2021, table 9)"
    command = "mae finetune"
    model = ClassifierModel
    section = ("finetune", FinetuneConfig)
    renamed_keys = {"finetune.ema": "train.ema"}
    exports = {
        "mae": "a classifier in the names of the original release's fine-tuned models",
        "hf": "transformers' ViTForImageClassification, of a classifier on the class token, or "
        "HieraForImageClassification",
    }
    losses = ("cross_entropy",)
    loss_settings = ("finetune.label_smoothing", "finetune.mixup", "finetune.cutmix")
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
                Curve("balanced_accuracy", "balanced", "health"),
                Curve("commonest_accuracy", "always the commonest", "health"),
            ),
            is_share=True,
            levels=(Level("chance", chance),),
        ),
    )
    about_learning = (
        "Training metrics are measured on augmented and mixed images with smoothed labels, where "
        "the recipe uses these. Held-out images are clean, so their metrics are often better; the "
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
        """Accuracy and confidence on mixed training images: mostly below those on clean ones."""
        right, confidence = statistics["right"], statistics["confidence"]
        assert isinstance(right, float) and isinstance(confidence, float)
        return {"accuracy": right, "confidence": confidence}

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings of classification that are wrong or conflict."""
        data, finetune, model = config.data, finetune_of(config), model_of(config)
        yield from refuse_arguments(model)
        if data.mixture or data.repeats > 1:
            yield "objective", "classifier: data.mixture and data.repeats are for pretraining"
        if "drop_path_rate" in model.encoder_kwargs:
            yield "model.encoder_kwargs.drop_path_rate", "is set elsewhere (finetune.drop_path)"
        if finetune.num_classes == 1:
            yield "finetune.num_classes", "1 class leaves nothing to learn"
        if finetune.rand_augment and (images := images_in_words(data.in_chans, data.bits)):
            yield (
                "finetune.rand_augment",
                f"is for colour images, not for {images}: set finetune.rand_augment=''",
            )
        for key in ("crop_on_device", "decode_on_device"):
            if finetune.rand_augment and getattr(data, key):
                yield (
                    f"data.{key}",
                    "leaves no crops to finetune.rand_augment: set finetune.rand_augment='' or "
                    f"data.{key}=false",
                )

    def settings_from(
        self,
        source: str | Path,
        words: Sequence[str],
        count: Callable[[Config], int] | None = None,
    ) -> Config:
        """Settings of `mae finetune SOURCE [RECIPE] …`; UserError as `adapted_settings`."""
        from mae.objectives.classifier.few_labels import adapted_settings

        return adapted_settings(source, words, count)

    def describe_recipe(self) -> str:
        """Recipe of `settings_from`, for --help."""
        from mae.objectives.classifier.recipe import describe_recipe

        return describe_recipe()

    def complete(self, config: Config, manifest: Manifest) -> Config:
        """Fill in finetune.num_classes where it is 0.

        Raises UserError where a training sample has no label or one that is not below
        num_classes, where classes.txt names more classes, or where the labels are so sparse that
        they are likely a mistake (MAX_LABEL_RATIO).
        """
        import numpy as np

        from mae.data.class_names import quoted
        from mae.data.required_labels import require_labels

        self.augmentation(config, (1, 1))  # refuses an unknown policy now, not in the run
        finetune = finetune_of(config)
        labels = require_labels(manifest, "data.train")
        num_classes, largest = finetune.num_classes, int(labels.max())
        if len(np.unique(labels)) == 1:
            name = f" ({quoted(manifest.class_names[largest:][:1])})" * bool(manifest.class_names)
            raise UserError(
                f"data.train: all {len(labels):,} images are of class {largest}{name}: one class "
                "leaves nothing to learn"
            )
        if not num_classes and largest >= MAX_LABEL_RATIO * len(np.unique(labels)):
            raise UserError(
                f"finetune.num_classes: labels go up to {largest} (first "
                f"{manifest.name(int(labels.argmax()))}), but only {len(np.unique(labels))} "
                "different ones occur: set it if that is intended"
            )
        if num_classes and num_classes <= largest:
            first = manifest.name(int((labels >= num_classes).argmax()))
            raise UserError(
                f"finetune.num_classes: {num_classes}, but labels go up to {largest}, first {first}"
            )
        named = len(manifest.class_names)
        if num_classes and num_classes < named:
            raise UserError(f"finetune.num_classes: {num_classes}, but classes.txt names {named}")
        update = {"num_classes": num_classes or max(2, largest + 1, named)}
        return config.model_copy(update={"finetune": finetune.model_copy(update=update)})

    def completed_keys(self, config: Config) -> set[str]:
        """Keys that `complete` fills in: finetune.num_classes where it is 0."""
        return set() if finetune_of(config).num_classes else {"finetune.num_classes"}

    def batch_multiple(self, config: Config) -> tuple[int, str]:
        """Even micro-batches, where images are mixed in pairs."""
        finetune = finetune_of(config)
        if finetune.mixup or finetune.cutmix:
            return (
                2,
                "mixup and cutmix need an even number (train.max_device_batch, finetune.mixup)",
            )
        return 1, ""

    def augmentation(self, config: Config, img_size: tuple[int, int]) -> Callable[..., Any] | None:
        """RandAugment by finetune.rand_augment; None: no policy."""
        policy = finetune_of(config).rand_augment
        if not policy:
            return None
        from mae.data.transform import build_augment

        return build_augment(policy, config.data.mean, img_size, "finetune.rand_augment")

    def describe(self, config: Config, size: str) -> str:
        """Description of the model in a few words, and of augmentation that it goes without."""
        finetune = finetune_of(config)
        head = (
            f"{model_of(config).encoder}, {size} with the head for {finetune.num_classes} classes"
        )
        images = images_in_words(config.data.in_chans, config.data.bits)
        if not images or finetune.rand_augment:
            return head
        return f"{head}; without RandAugment, which is for colour images, not for {images}"

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card: number of classes and regularisation."""
        section = finetune_of(config)
        trained = "trained from scratch on" if is_from_scratch else "fine-tuned to"
        return Card(
            f"{trained} {section.num_classes} classes by mae {__version__}",
            f"cross-entropy; label smoothing {section.label_smoothing}, mixup {section.mixup}, "
            f"cutmix {section.cutmix}, random erasing {section.random_erasing}, RandAugment "
            f"{section.rand_augment or 'none'}, drop path {section.drop_path}, layer decay "
            f"{section.layer_decay}",
            task="image-classification",
        )

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: the loss, without the accuracy on mixed images."""
        return super().results({k: v for k, v in metrics.items() if k != "accuracy"}, health)

    def history(self, config: Config) -> str:
        """Training in a few words, for the cards of models that start from its weights."""
        return f"classification into {finetune_of(config).num_classes} classes"

    def fewest_steps(self, config: Config) -> int:
        """Steps below which a head is hardly fitted."""
        return 300

    def diagnose(self, run: RunRecord) -> Iterable[Finding]:
        """Findings on accuracy, overfitting and single classes: see `.diagnosis`."""
        from mae.objectives.classifier.diagnosis import diagnose

        return diagnose(run)


DECLARATION = ClassifierDeclaration()
