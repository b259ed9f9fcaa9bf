"""Weights & Biases backend: metrics and pictures in RUN/wandb, or uploaded, where asked for."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mae.base.output import print_error
from mae.base.redaction import redacted, without_secrets
from mae.config.sections import Config
from mae.training.checkpoint.run import Run

INIT_SECONDS = 60
"""seconds to wait for the server before the run is tracked offline"""
FINISH_SECONDS = 300
"""seconds to wait for uploads at the end; the rest stays in RUN/wandb for `wandb sync`"""


class WandbTracker:
    """A wandb run.

    wandb rejects rows whose step is not above the last one, as occur after a resume or a rollback:
    the step is a column here, and the x-axis of the charts.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        run.define_metric("*", step_metric="step")

    def log(self, row: dict[str, Any], step: int) -> None:
        """Log a row of values by name."""
        self.run.log({**row, "step": step})

    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Log a PNG file."""
        import wandb

        self.run.log({name: wandb.Image(str(path)), "step": step})

    def close(self) -> None:
        """Wait for the uploads, at most FINISH_SECONDS."""
        self.run.finish()


def start_wandb(run: Run, config: Config, *, offline: bool = False) -> WandbTracker | None:
    """Start the wandb run of this folder, or resume it after a restart; None: not tracked.

    With `offline` nothing is uploaded, whatever the login and WANDB_MODE; else a line says where
    metrics and pictures go, where somebody is logged in.  WANDB_MODE (offline, disabled) is
    respected.  The id of the run is in the file `wandb-id`.  An error is printed in one line and
    never prevents training.
    """
    chosen = os.environ.get("WANDB_MODE")
    if chosen == "disabled":
        return None
    try:
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        if offline or chosen == "offline" or not wandb.login(prompt=False, verify=False):
            return _init(run, config, "offline")
        try:
            tracker = _init(run, config, "online")
            print_error(f"wandb: metrics and pictures are uploaded to {tracker.run.url}")
            return tracker
        except Exception as error:
            print(f"wandb: offline from here: {_line(error)}", file=sys.stderr, flush=True)
            wandb.teardown()  # otherwise wandb takes the run as still starting
            return _init(run, config, "offline")
    except Exception as error:
        print(f"wandb: not tracking: {_line(error)}", file=sys.stderr, flush=True)
        return None


def _init(run: Run, config: Config, mode: Literal["online", "offline"]) -> WandbTracker:
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        disable_git=True,  # remote URLs may contain tokens; starts.jsonl has the commit
        disable_code=True,
    )
    with _redacted_arguments():
        began = wandb.init(
            mode=mode,
            project=config.log.project,
            name=run.folder.name,
            id=_run_id(run),
            resume="allow",
            dir=run.folder,
            config=without_secrets(config.model_dump(mode="json")),
            settings=settings,
        )
    return WandbTracker(began)


def _run_id(run: Run) -> str:
    """Read the id from the file `wandb-id`; create it where it is absent or empty after a crash."""
    file = run.folder / "wandb-id"
    if known := file.read_text(errors="replace").strip("\0 \n") if file.exists() else "":
        return known
    part = file.with_suffix(".tmp")
    part.write_text(new := secrets.token_hex(4))
    part.replace(file)
    return new


@contextmanager
def _redacted_arguments() -> Iterator[None]:
    """Remove secrets from sys.argv, which wandb records, as long as the context is open."""
    words, sys.argv = sys.argv, without_secrets(sys.argv)
    try:
        yield
    finally:
        sys.argv = words


def _line(error: Exception) -> str:
    """Format an error as one line without secrets."""
    return " ".join(redacted(str(error)).split()) or repr(error)
