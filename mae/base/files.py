"""Atomic writing of files and folders, JSON files, and the run folder of a checkpoint."""

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mae.base.errors import UserError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`, which becomes `out` at the end of the block.

    After an error in the block the temporary folder is deleted.  Raises UserError where `out` is
    a file or a non-empty folder, or cannot be written.
    """
    if not out.name:
        raise UserError(f"{out}: write the name of a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty; nothing is overwritten")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        if out.exists():
            out.rmdir()
        part.rename(out)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out}: cannot be written: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """Yield a temporary path beside `out`, which replaces `out` at the end of the block.

    After an error in the block the temporary file is deleted and `out` stays as it was.  Raises
    UserError where `out` cannot be written.
    """
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):  # absent: renamed, or never written
            part.unlink()


def run_folder(folder: Path) -> Path:
    """Run folder of a run folder (itself) or of a checkpoint (RUN/checkpoints/step-…)."""
    is_checkpoint = folder.parent.name == "checkpoints" and folder.name.startswith("step-")
    return folder.parent.parent if is_checkpoint else folder


def write_json(path: Path, content: dict) -> None:
    """Write indented JSON atomically, creating parent folders.

    Raises UserError where `path` cannot be written.
    """
    with new_file(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where the file is absent, damaged or holds no object."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
