"""Classifiers that are evaluated: of a run or weights, with labelled images; their predictions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.divided_work import divided_work
from mae.base.errors import UserError
from mae.base.portion import Portion
from mae.base.progress import ProgressLine
from mae.config.sections import Config
from mae.data.images import Images
from mae.data.manifest import labels_digest
from mae.data.opening import open_labelled
from mae.data.transform import choose_crop_pct
from mae.evaluation.encoders import weights_sha256
from mae.evaluation.features import missing_features
from mae.evaluation.predictions import (
    BATCH,
    ClassifiedImages,
    Predictions,
    do_predictions,
    require_classes,
)
from mae.networks.vit import timm_encoder
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.opened import (
    NOTHING,
    OpenedModel,
    log_lines,
    model_classes,
    open_model,
)


class OpenedClassifier(NamedTuple):
    """Classifier of a run, and the images to evaluate it on."""

    opened: OpenedModel
    subject: ClassifiedImages
    names: list[str]
    """a name for each class"""
    crop_pct: float
    matched: str
    """line on how the classes of model and images were matched; "": by the same names"""

    def plan(self) -> list[object]:
        """All that its predictions depend on."""
        config, manifest = self.opened.config, self.subject.images.manifest
        data, size = config.data, self.subject.img_size
        read = [data.in_chans, data.bits, data.mean, data.std, self.crop_pct, size]
        weights = [config.model.model_dump_json(), weights_sha256(self.opened.objective)]
        return [*weights, read, manifest.fingerprint, labels_digest(manifest)]


class EvaluatedRun(NamedTuple):
    """Classifier of a run, the images, and its predictions."""

    opened: OpenedModel
    images: Images
    predictions: Predictions
    names: list[str]
    """a name for each class"""
    crop_pct: float
    matched: str
    """as in `OpenedClassifier`"""


def open_classifier(
    folder: Path,
    shards: Sequence[str],
    key: str,
    device: str,
    read_with: Callable[[Config], Config],
    options: WeightOptions | None,
    portion: Portion,
) -> OpenedClassifier:
    """Classifier of a checkpoint, or of a run's newest, and all images of `shards`.

    Raises as `evaluate_run` does.
    """
    opened = open_model(folder, options or NOTHING, allow_probe=True)
    log_lines(opened, portion.log)
    config, objective = read_with(opened.config), opened.objective
    known = model_classes(opened, folder)
    classify: Any = getattr(objective.to(device), "logits", None)
    if classify is None or known is None:
        if opened.state is None:
            raise UserError(f"{folder}: holds no classifier (head.weight, head.bias)")
        refusal = missing_features(folder, config.objective, "class scores", "evaluate")
        if timm_encoder(objective) is None:
            raise refusal
        raise UserError(f"{refusal} (`mae finetune` makes a classifier of a pretraining run)")
    names = known.names
    images, matched = portion.first_before_others(
        lambda: open_labelled(shards, key, config, names, str(folder))
    )
    named = len(images.manifest.class_names)
    if opened.state is None and not names and named not in (0, known.count):
        raise UserError(
            f"{key}: names {named} classes, {folder} has {known.count} without names: write theirs "
            "to classes.txt beside it, a name a line"
        )
    return OpenedClassifier(
        opened=opened._replace(config=config),
        subject=ClassifiedImages(
            logits=classify,
            images=images,
            labels=require_classes(images, key, known.count),
            img_size=objective.img_size,
            crop_pct=config.data.crop_pct,
        ),
        names=known.shown(),
        crop_pct=choose_crop_pct(config.data.crop_pct, objective.img_size),
        matched=matched,
    )


def predict(
    classifiers: Sequence[OpenedClassifier],
    out: Path,
    device: str,
    workers: int,
    portion: Portion,
    log: Callable[[str], None],
) -> list[EvaluatedRun]:
    """Predictions of each of `classifiers`, in parts beside `out`; raises as `evaluate_run`."""
    plan = json.dumps([BATCH, "margins", *(one.plan() for one in classifiers)])
    evaluated = []
    with divided_work(out, plan, portion, log) as work:
        joins = [
            do_predictions(
                work,
                f"predictions{number}",
                one.subject,
                ProgressLine("classifying", "images", log),
                device=device,
                workers=workers,
                max_bad=one.opened.config.data.max_bad,
            )
            for number, one in enumerate(classifiers)
        ]
        if portion.is_task:
            portion.leave_to_first()
        if portion.joins:
            evaluated = [
                EvaluatedRun(
                    opened=one.opened,
                    images=one.subject.images,
                    predictions=join(),
                    names=one.names,
                    crop_pct=one.crop_pct,
                    matched=one.matched,
                )
                for one, join in zip(classifiers, joins, strict=True)
            ]
    portion.leave_to_first()
    return evaluated
