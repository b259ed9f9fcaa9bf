"""How every evaluation of frozen features ends: a JSON file, and a table."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mae.base.files import write_json


def finish(
    args: argparse.Namespace,
    out: Path,
    report: dict[str, Any],
    table: str,
    *,
    step: int | None,
    seen: int | None,
) -> None:
    """Write `report` to `out`, headed by what was asked for; print the table.

    `seen`: test images that are, byte for byte, in train; None where that is not known.
    """
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in ("command", "module") and value is not None
    }
    head = {"command": args.command, "run": str(args.run), "step": step, "settings": settings}
    write_json(out, {**head, "test_images_in_train": seen, **report})
    print(table)
    print(f"{report['test_images']:,} test images; {out} tells what was done, and how")


def say(text: str) -> None:
    """What happens meanwhile, beside the results."""
    print(text, file=sys.stderr)
