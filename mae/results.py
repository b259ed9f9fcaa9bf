"""Results of commands as JSON files."""

import json
from pathlib import Path

from mae.errors import UserError


def write_json(path: Path, content: dict) -> None:
    """Write readable JSON, folders included; UserError where `path` cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
