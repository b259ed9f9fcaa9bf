"""Options of `mae export`."""

from pathlib import Path
from typing import Any

from mae.options.parsing import command


def add_export_commands(commands: Any) -> None:
    """`mae export`."""
    export = command(commands, "export", "export", "export the encoder of a run")
    export.add_argument("run", type=Path, help="run folder")
    export.add_argument("out", type=Path, help="new folder")
    export.add_argument("--format", choices=["timm"], default="timm", help="whose format")
