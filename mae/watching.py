"""How a run is doing, from images it does not train on: panels, and numbers.

A masked autoencoder's health, a classifier's accuracy.
"""

import time
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from mae.config import Config
from mae.data.class_names import refuse_other_names
from mae.data.images import Images
from mae.data.training_data import open_images
from mae.errors import UserError
from mae.evaluation.classification import judge, require_classes, summary
from mae.evaluation.health import measure_health
from mae.models.classifier import Classifier
from mae.models.mae import MaskedAutoencoder
from mae.objective import Objective
from mae.panels import Panel, draw_panel
from mae.training.plan import Plan
from mae.training.run import Run
from mae.training.snapshot import is_sharded
from mae.training.tracking import Tracker


def open_held_out(config: Config) -> Images | None:
    """The images of data.val, where they are to be measured while training goes on.

    Raises UserError where they cannot be read, or have no labels for a classifier, which is
    judged on them in the end whatever log.health_every is.
    """
    is_classifier = config.objective == "classifier"
    if not config.data.val or not (is_classifier or config.log.health_every):
        return None
    images = open_images(config.data.val, "data.val", config)
    if is_classifier:
        require_classes(images, "data.val", config.finetune.num_classes)
        refuse_other_names(config.data.train, images.manifest.shards, "data.val")
    return images if config.log.health_every else None


class Watcher:
    """Looks at the model when it is time; all processes look together."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        objective: Objective,
        panel: Panel | None,
        held_out: Images | None,
        run: Run,
        tracker: Tracker,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.plan, self.objective = config, plan, objective
        self.run, self.tracker, self.accelerator = run, tracker, accelerator
        self.panel = panel
        self.held_out = held_out
        if held_out is not None and is_sharded(objective):
            self.held_out = None
            tracker.say("held-out images are not measured while the weights are sharded")

    def look(self, done: int, is_end: bool) -> None:
        """After step `done`: draw and measure what is due.  All processes call it."""
        every = self.config.log.panel_every
        if self.panel is not None and ((every and done % every == 0) or is_end):
            device = self.accelerator.device
            draw_panel(self.panel, self.objective, self.run, self.tracker, done, device)
        if self.held_out is not None and (is_end or self._is_epoch_mark(done)):
            self._measure(done)

    def _is_epoch_mark(self, done: int) -> bool:
        """A multiple of log.health_every epochs was passed in this step."""
        every = self.config.log.health_every
        return self.plan.epoch(done) // every > self.plan.epoch(done - 1) // every

    def _measure(self, done: int) -> None:
        if self.held_out is None:
            return
        began = time.perf_counter()
        try:
            if isinstance(self.objective, Classifier):
                found = self._judge(self.objective, self.held_out)
            elif isinstance(self.objective, MaskedAutoencoder):
                found = self._measure_health(self.objective, self.held_out)
            else:
                return
        except UserError as error:  # met by all processes alike; no reason to end a run
            self.tracker.say(f"held-out images: not measured: {error}")
            return
        seconds = time.perf_counter() - began
        row = {"step": done, "epoch": self.plan.epoch(done), **found, "seconds": seconds}
        self.tracker.health(row)

    def _measure_health(self, objective: MaskedAutoencoder, images: Images) -> dict[str, Any]:
        health = measure_health(
            objective,
            images,
            self.config.data.crop_pct,
            self.config.train.seed,
            self.config.log.health_images,
            device=self.accelerator.device,
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            gather=gather_object,
        )
        return health._asdict()

    def _judge(self, classifier: Classifier, images: Images) -> dict[str, Any]:
        classifier.eval()
        try:
            judged = judge(
                classifier.logits,
                images,
                images.manifest.label.astype(np.int64),
                classifier.img_size,
                self.config.data.crop_pct,
                device=self.accelerator.device,
                workers=self.config.data.workers,
                process_index=self.accelerator.process_index,
                num_processes=self.accelerator.num_processes,
                gather=gather_object,
            )
        finally:
            classifier.train()
        found = summary(judged)
        low, high = found["interval"]
        self.tracker.say(
            f"held-out accuracy {found['accuracy']:.1%} ({100 * low:.1f}–{100 * high:.1f}) of "
            f"{found['images']:,} images"
        )
        return found
