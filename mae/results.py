"""Results of commands as JSON files."""

import json
from pathlib import Path
from typing import Any

from mae.folders import new_file


def write_json(path: Path, content: dict) -> None:
    """Write readable JSON, folders included, whole or not at all.

    Raises UserError where `path` cannot be written.
    """
    with new_file(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """An object of JSON; empty where the file is absent, damaged or something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
