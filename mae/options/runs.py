"""Options of the commands that look at a run."""

from pathlib import Path
from typing import Any

from mae.options.parsing import command, positive


def add_run_commands(commands: Any) -> None:
    """`mae inspect-batch`, `report`."""
    inspect = command(
        commands, "inspect_batch", "inspect-batch", "name and show the images of one training step"
    )
    inspect.add_argument("run", type=Path, help="run folder")
    inspect.add_argument("step", type=positive, help="as the progress line and events count")
    inspect.add_argument("--count", type=positive, default=64, help="images on the picture")
    inspect.add_argument("--out", type=Path, help="PNG (RUN/batch-STEP.png if unset)")

    report = command(commands, "report", "report", "write a page on how a run is doing")
    report.add_argument("run", type=Path, help="run folder")
    report.add_argument("--out", type=Path, help="HTML file (RUN/report.html if unset)")
