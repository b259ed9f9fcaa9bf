"""Evaluation during training: panels of fixed images and metrics on held-out images."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from PIL import Image
from torch import Tensor

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.base.progress import busy
from mae.base.tensor_hashing import as_tensor
from mae.config.sections import Config
from mae.data.class_matching import with_class_names
from mae.data.class_names import quoted
from mae.data.images import Images, usable_image
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest
from mae.data.opening import open_images, open_labelled
from mae.data.sample_names import sample_name
from mae.data.training_data import TrainingSource
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.evaluation.comparison import count_seen
from mae.evaluation.health import measure_held_out
from mae.evaluation.run_record import number
from mae.objectives.base import Objective
from mae.objectives.implementation import HeldOut, Implementation
from mae.objectives.registry import declaration, implementation
from mae.pack.packed_folders import is_folder
from mae.pictures.drawing import reconstruction_panel, save_png
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.snapshot import is_sharded
from mae.training.plan import TrainingSetup
from mae.training.safety.findings import FindingWarnings
from mae.training.step import Learner
from mae.training.tracking.tracker import Tracker


class PanelImages(NamedTuple):
    """The images that every panel shows, and the seeds of their noise."""

    images: Tensor
    seeds: Tensor
    source: str
    names: list[str]
    """key and class of each image"""


class EvaluationImages(NamedTuple):
    """Images that a run is evaluated on; None: no panels, or no held-out metrics."""

    panel: PanelImages | None
    held_out: Images | None
    notes: list[str]
    """lines on the held-out images, for the user"""


class HeldOutImages(NamedTuple):
    """Images of data.val."""

    images: Images | None
    """None: data.val is not set"""
    notes: list[str]
    """lines for the user"""


def open_held_out(config: Config, training: Manifest) -> HeldOutImages:
    """Open data.val, and compare it with the training samples, in the first process.

    Raises UserError where the images cannot be read or do not fit the objective.  For an
    objective that needs labels they are checked in any case, since it is evaluated on them
    afterwards.
    """
    if not config.data.held_out:
        return HeldOutImages(None, list(without_accuracy(config)))
    notes: list[str] = []
    if declaration(config.objective).needs_labels:
        names = training.class_names
        held_out = config.data.held_out
        images, matched = open_labelled(held_out, "data.val", config, names, "data.train")
        notes += [matched] * bool(matched)
        notes += untrained_classes(training, images.manifest)
    else:
        images, notes = open_measured(config)
    implementation(config.objective).check_held_out(config, images)
    is_first = os.environ.get("RANK", "0") == "0"  # the only one to read all checksums
    if is_first and (seen := count_seen(training, images.manifest)):
        notes.append(
            f"warning: {seen:,} of {len(images.manifest):,} images of data.val are in data.train "
            "too, byte for byte: what is measured on them is no held-out result"
        )
    return HeldOutImages(images, notes)


def without_accuracy(config: Config) -> Iterator[str]:
    """Line where a classifier has no held-out images, with what would give it some."""
    declared = declaration(config.objective)
    if not declared.needs_labels or declared.is_probe:
        return
    share = ""
    if len(config.data.train) == 1 and is_folder(config.data.train[0]):
        share = "; data.val_share=0.2 holds out a fifth of the folder"
    yield f"note: no data.val, so no accuracy is measured{share}"


def untrained_classes(training: Manifest, held_out: Manifest) -> list[str]:
    """Line on the held-out images of classes that no training image has."""
    labels, known = np.asarray(held_out.label), np.asarray(training.label)
    of_others = labels[~np.isin(labels, known)]
    if not len(of_others):
        return []
    names = dict(enumerate(held_out.class_names))
    classes = [names.get(number, str(number)) for number in np.unique(of_others).tolist()]
    return [
        f"warning: {len(of_others):,} of {len(held_out):,} images of data.val are of classes "
        f"without a training image, so that no answer can be right: {quoted(classes)}"
    ]


def open_measured(config: Config) -> tuple[Images, list[str]]:
    """Open data.val for an objective that needs no labels: without them where they conflict."""
    patterns = config.data.held_out
    images = open_images(patterns, "data.val", config, with_second=True, with_targets=True)
    try:
        manifest = with_class_names(images.manifest, "data.val")
        note = f"data.val: {manifest.class_note}"
        return images.of(manifest), [note] * bool(manifest.class_note)
    except UserError as error:
        label = np.full(len(images.manifest), NO_LABEL, np.int32)
        return images.of(images.manifest.changed(label=label)), [f"labels not used: {error}"]


def panel_images(
    config: Config, objective: Objective, training: TrainingSource, held_out: Images | None
) -> PanelImages:
    """Load the first images of data.val, or of the training data if there is none."""
    # With files of its own: those of `held_out` are opened in data workers.
    images = training.images(config) if held_out is None else held_out.of(held_out.manifest)
    count = min(config.log.panel_images, len(images.manifest))
    views = CentredViews(images, objective.img_size, config.data.crop_pct)
    manifest, seed = images.manifest, config.train.seed
    usable = (usable_image(views.view, manifest, number, seed, epoch=0) for number in range(count))
    found = list(usable)
    shown = stack([one.image for one in found])
    seeds = fold(config.train.seed, Stream.PANEL, torch.arange(count).numpy())
    name = "training images (no data.val)" if held_out is None else "held-out images"
    names = [sample_name(manifest, one.sample) for one in found]
    return PanelImages(shown, as_tensor(seeds), name, names)


def open_evaluation_images(
    config: Config, objective: Objective, data: TrainingSource, draws: bool
) -> EvaluationImages:
    """Open the images for panels, if this process `draws` them, and the held-out images."""
    opened, notes = open_held_out(config, data.manifest)
    held_out = opened if config.log.health_every else None
    if not (draws and draws_panels(config, objective)):
        return EvaluationImages(None, held_out, notes)
    return EvaluationImages(panel_images(config, objective, data, opened), held_out, notes)


def draws_panels(config: Config, objective: Objective) -> bool:
    """True where the objective has a panel of its own or can reconstruct images."""
    own = type(implementation(config.objective)).panel
    return own is not Implementation.panel or hasattr(objective, "reconstruct")


@torch.no_grad()
def draw_panel(
    config: Config,
    objective: Objective,
    images: Tensor,
    seeds: Tensor,
    title: str,
    names: Sequence[str] = (),
) -> Image.Image | None:
    """Draw the objective's own panel, or its reconstructions; None where it has neither."""
    was_training = objective.training
    objective.eval()
    try:
        own = implementation(config.objective).panel(objective, images, seeds, title, names)
        if own is not None or not hasattr(objective, "reconstruct"):
            return own
        return reconstruction_panel(objective, images, seeds, title, names)
    finally:
        objective.train(was_training)


def compared_with_start(first: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    """Lines on held-out accuracies before the first step and after the last, where both exist."""
    names = {"probe": "linear probe", "knn": "k-NN"}
    pairs = {key: (number(first, key), number(last, key)) for key in names}
    known = {key: (a, b) for key, (a, b) in pairs.items() if a is not None and b is not None}
    if not known:
        return [
            "held out: no labels, so nothing says whether the features are better than at step 0"
        ]
    shown = [f"{names[key]} {before:.1%} → {now:.1%}" for key, (before, now) in known.items()]
    lines = [f"held out, before the first step → now: {', '.join(shown)}"]
    if "probe" in known and known["probe"][1] < known["probe"][0]:
        lines.append(
            "warning  the features are worse for these labels than those that training began with: "
            "keep those, or train with a smaller optim.blr, for fewer epochs or on more images"
        )
    return lines


class Evaluator:
    """Draws panels and evaluates held-out images when they are due, with averaged weights if any.

    All processes call it together.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        learner: Learner,
        evaluated: EvaluationImages,
        run: Run,
        tracker: Tracker,
        findings: FindingWarnings,
    ) -> None:
        self.config, self.plan, _ = setup
        self.learner = learner
        self.run, self.tracker, self.findings = run, tracker, findings
        self.panel, self.held_out, _ = evaluated
        if self.held_out is not None and is_sharded(learner.objective):
            self.held_out = None
            tracker.print_line("held-out images are not evaluated while the weights are sharded")
        if self.plan.intervals.panel and not draws_panels(self.config, learner.objective):
            tracker.print_line(
                f"panels  none: {self.config.objective} draws and reconstructs nothing"
            )

    def evaluate_start(self) -> None:
        """Evaluate before the first step if log.health_start is on.  All processes call it."""
        is_measured = broadcast_object_list([bool(self.run.first_health())])[0]
        if self.config.log.health_start and self.held_out is not None and not is_measured:
            self._evaluate_held_out(self.held_out, 0)

    def evaluate(self, done: int, is_end: bool) -> None:
        """Draw panels and evaluate if due after step `done`.  All processes call it."""
        every = self.plan.intervals.panel
        draws = self.panel is not None and ((every and done % every == 0) or is_end)
        evaluates = self.held_out is not None and (is_end or self._is_epoch_mark(done))
        average = self.learner.average
        with average.applied() if average and (draws or evaluates) else contextlib.nullcontext():
            if draws and self.panel is not None:
                self._draw(self.panel, done)
            if evaluates and self.held_out is not None:
                self._evaluate_held_out(self.held_out, done)
        if is_end and evaluates and self.tracker.is_main and (first := self.run.first_health()):
            for line in compared_with_start(first, self.run.last_health()):
                self.tracker.print_line(line)

    def _is_epoch_mark(self, done: int) -> bool:
        """True where this step passed a multiple of log.health_every epochs."""
        every = self.plan.intervals.health
        return self.plan.epoch(done) // every > self.plan.epoch(done - 1) // every

    def _draw(self, panel: PanelImages, step: int) -> None:
        """Write panels/step-….png and log it."""
        objective, device = self.learner.objective, self.learner.accelerator.device
        images, seeds = panel.images.to(device), panel.seeds.to(device)
        title = f"step {step}, {panel.source}"
        with busy("drawing a panel"):
            picture = draw_panel(self.config, objective, images, seeds, title, panel.names)
        if picture is not None and self.tracker.is_main:
            path = self.run.panels / f"step-{step:09d}.png"
            save_png(picture, path)
            self.tracker.log_picture("panel", path, step)

    def _evaluate_held_out(self, images: Images, done: int) -> None:
        objective, accelerator = self.learner.objective, self.learner.accelerator
        began = time.perf_counter()
        held_out = HeldOut(
            images=images,
            config=self.config,
            device=accelerator.device,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            gather=gather_object,
            log=self.tracker.print_line,
        )
        try:
            with busy("evaluating the held-out images"):
                metrics = implementation(self.config.objective).measure(objective, held_out)
                if metrics is None:
                    metrics = measure_held_out(objective, held_out)[0]._asdict()
        except UserError as error:  # the same on all processes, and no reason to end a run
            self.tracker.print_line(f"held-out images: not evaluated: {error}")
            return
        seconds = time.perf_counter() - began
        row = {"step": done, "epoch": self.plan.epoch(done), **metrics, "seconds": seconds}
        self.tracker.log_health(row)
        self.findings.add_health(row)
