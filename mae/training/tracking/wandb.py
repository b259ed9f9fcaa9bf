"""Weights & Biases: the rows and pictures of a run, online with a login, else in RUN/wandb."""

import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mae.config.sections import Config
from mae.storage.files import redacted
from mae.training.checkpoint.run import Run

INIT_SECONDS = 60
"""that a server may take to answer before the run goes on offline"""
FINISH_SECONDS = 300
"""that uploads may take at the end; what is left stays in RUN/wandb, for `wandb sync`"""


class WandbTracker:
    """One wandb run.

    wandb refuses rows whose step is not above the last one's, as they come after a resume or a
    rollback: steps are a column here, which the charts have as their axis.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        run.define_metric("*", step_metric="step")

    def log(self, row: dict[str, Any], step: int) -> None:
        """A row of numbers by name."""
        self.run.log({**row, "step": step})

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG file."""
        import wandb

        self.run.log({name: wandb.Image(str(path)), "step": step})

    def close(self) -> None:
        """Wait for the uploads, FINISH_SECONDS at most."""
        self.run.finish()


def start_wandb(run: Run, config: Config) -> WandbTracker | None:
    """The wandb run of this folder, the same one after a restart; None where there is none.

    WANDB_MODE is heeded.  Its id is the file `wandb-id`.  Whatever fails is told in one line and
    is no reason not to train.
    """
    chosen = os.environ.get("WANDB_MODE")
    if chosen == "disabled":
        return None
    try:
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        if chosen == "offline" or not wandb.login(prompt=False, verify=False):
            return _init(run, config, "offline")
        try:
            return _init(run, config, "online")
        except Exception as error:
            print(f"wandb: offline from here: {_line(error)}", file=sys.stderr, flush=True)
            wandb.teardown()  # else the run counts as still being started
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
        disable_git=True,  # remotes' addresses may hold tokens; starts.jsonl has the commit
        disable_code=True,
    )
    with _harmless_arguments():
        began = wandb.init(
            mode=mode,
            project=config.log.project,
            name=run.folder.name,
            id=_id_of(run),
            resume="allow",
            dir=run.folder,
            config=without_secrets(config.model_dump(mode="json")),
            settings=settings,
        )
    return WandbTracker(began)


def _id_of(run: Run) -> str:
    """What is in the file `wandb-id`; a new one where that is absent, or empty after a crash."""
    file = run.folder / "wandb-id"
    if known := file.read_text(errors="replace").strip("\0 \n") if file.exists() else "":
        return known
    part = file.with_suffix(".tmp")
    part.write_text(new := secrets.token_hex(4))
    part.replace(file)
    return new


def without_secrets(value: Any) -> Any:
    """JSON values with the secrets of addresses cut out, and all of a `pipe:` command."""
    if isinstance(value, str):
        return redacted(re.sub(r"(?s)\bpipe:.*", "pipe:…", value))
    if isinstance(value, dict):
        return {key: without_secrets(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_secrets(one) for one in value]
    return value


@contextmanager
def _harmless_arguments() -> Iterator[None]:
    """The command line as wandb may note it: there are addresses in it."""
    words, sys.argv = sys.argv, without_secrets(sys.argv)
    try:
        yield
    finally:
        sys.argv = words


def _line(error: Exception) -> str:
    """A message as one line, without secrets."""
    return " ".join(without_secrets(str(error)).split()) or repr(error)
