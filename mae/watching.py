"""How a run is doing, from images it does not train on: panels, and the encoder's health."""

import time

from accelerate import Accelerator
from accelerate.utils import gather_object

from mae.config import Config
from mae.data.training_data import open_images
from mae.errors import UserError
from mae.evaluation.health import measure_health
from mae.models.mae import MaskedAutoencoder
from mae.objective import Objective
from mae.panels import Panel, draw_panel
from mae.training.plan import Plan
from mae.training.run import Run
from mae.training.snapshot import is_sharded
from mae.training.tracking import Tracker


class Watcher:
    """Looks at the model when it is time; all processes look together."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        objective: Objective,
        panel: Panel | None,
        run: Run,
        tracker: Tracker,
        accelerator: Accelerator,
    ) -> None:
        """Raises UserError where data.val cannot be read."""
        self.config, self.plan, self.objective = config, plan, objective
        self.run, self.tracker, self.accelerator = run, tracker, accelerator
        self.panel = panel
        self.held_out = None
        if config.data.val and config.log.health_every and isinstance(objective, MaskedAutoencoder):
            self.held_out = open_images(config.data.val, "data.val", config)

    def look(self, done: int) -> None:
        """After step `done`: draw and measure what is due.  All processes call it."""
        is_end = done == self.plan.steps
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
        if self.held_out is None or is_sharded(self.objective):
            return
        began = time.perf_counter()
        try:
            health = measure_health(
                self.objective,
                self.held_out,
                self.config.data.crop_pct,
                self.config.train.seed,
                self.config.log.health_images,
                device=self.accelerator.device,
                process_index=self.accelerator.process_index,
                num_processes=self.accelerator.num_processes,
                gather=gather_object,
            )
        except UserError as error:  # met by all processes alike; no reason to end a run
            self.tracker.say(f"health: not measured: {error}")
            return
        seconds = time.perf_counter() - began
        row = {"step": done, "epoch": self.plan.epoch(done), **health._asdict(), "seconds": seconds}
        self.tracker.health(row)
