"""JSON Lines files of a run: appended, read as far as they are whole, repaired, set aside."""

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.redaction import without_secrets


class Rows(NamedTuple):
    """Contents of a JSON Lines file."""

    rows: list[dict[str, Any]]
    lines: list[bytes]
    """the line of each row, as it is in the file"""
    damaged: int
    """number of lines that hold no JSON object, without those that a kill has cut off"""


def read_rows(path: Path) -> Rows:
    """Read all whole rows; none where the file is absent.  OSError where it is unreadable."""
    rows, kept, damaged = [], [], 0
    for line in read_file(path).split(b"\n") if os.path.lexists(path) else ():
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError):  # UnicodeDecodeError among them
            row = None
        if isinstance(row, dict):
            rows.append(row)
            kept.append(line)
        elif line.strip() and not _is_cut_off(line):
            damaged += 1
    return Rows(rows, kept, damaged)


def write_lines(path: Path, lines: list[bytes]) -> None:
    """Replace a file by these lines, whole or not at all; OSError where that fails."""
    part = path.with_suffix(".tmp")
    part.write_bytes(b"".join(line + b"\n" for line in lines))
    part.replace(path)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a JSON Lines file; raises OSError where it cannot be written.

    A last line without its newline (the writer was killed) is ended first.  Non-finite numbers
    become null, since JSON cannot represent them; secrets are left out.  A symbolic link is not
    followed: a run folder may come from somebody else.
    """
    text = json.dumps(_non_finite_to_null(without_secrets(row)), allow_nan=False)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o666), "a+b") as file:  # noqa: PTH123  (no link is followed)
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        is_cut_off = file.read() not in (b"", b"\n")
        file.write(b"\n" * is_cut_off + text.encode() + b"\n")


def repair_rows(path: Path) -> str | None:
    """Leave only whole rows in a JSON Lines file; returns what was done, for the user.

    The file as it was is kept as NAME.damaged.  Raises OSError where the folder is not writable.
    """
    try:
        found = read_rows(path)
    except OSError as error:
        return set_aside(path, error.strerror or str(error))
    if not found.damaged:
        return None
    lines = f"{found.damaged:,} damaged line{'s' * (found.damaged > 1)} skipped"
    note = set_aside(path, lines)
    write_lines(path, found.lines)
    return note


def set_aside(path: Path, reason: str) -> str:
    """Rename `path` to NAME.damaged, or NAME.damaged-2 and so on; returns a line on it."""
    target, number = path.with_name(f"{path.name}.damaged"), 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(target)
    return f"{path.name}: {reason}; kept as {target.name}"


def read_file(path: Path) -> bytes:
    """Bytes of a regular file; OSError for anything else (reading a pipe would wait for ever)."""
    if not path.is_file():
        kind = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(kind, "is a folder" if path.is_dir() else "is no file", str(path))
    return path.read_bytes()


def _is_cut_off(line: bytes) -> bool:
    """True for the beginning of a row, whose writer was killed."""
    return line.startswith(b"{") and line.isascii() and b"\0" not in line and line[-1:] != b"}"


def _non_finite_to_null(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _non_finite_to_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_non_finite_to_null(item) for item in value]
    return value
