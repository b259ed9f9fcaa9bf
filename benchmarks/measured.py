"""Measurements that docs/SCALING.md is made of, with their commands, machines and dates."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae.base.files import write_json
from mae.commands.bench.timing import machine

Known = Mapping[str, Any]
"""sections by name: command, date, machine, load (mean of 5 minutes) and rows"""
FILE = Path(__file__).with_name("measured.json")


def record(section: str, command: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a section of FILE by `rows`, measured now by `command`."""
    sections = json.loads(FILE.read_text()) if FILE.exists() else {}
    here = machine()
    sections[section] = {
        "command": command,
        "date": str(here["date"])[:10],
        "machine": f"{here['cpu']}, {here['cores']} cores, shared",
        "load": round(os.getloadavg()[1], 1),
        "rows": list(rows),
    }
    write_json(FILE, dict(sorted(sections.items())))


def measured() -> Known:
    """All sections of FILE."""
    return json.loads(FILE.read_text())
