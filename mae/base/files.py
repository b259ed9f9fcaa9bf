"""Atomic writing of files and folders, JSON files, and the run folder of a checkpoint."""

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from mae.base.errors import UserError
from mae.base.redaction import without_secrets
from mae.base.rows import read_file

if TYPE_CHECKING:
    from torch import Tensor


KINDS = {
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFDIR: "folder",
}


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
    discard(part)
    try:
        part.mkdir(parents=True)
        yield part
        if out.exists():
            out.rmdir()
        part.rename(out)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out}: cannot be written: {error}") from None
    finally:
        discard(part)


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
        discard(part)  # absent: renamed, or never written


def discard(path: Path) -> None:
    """Delete a temporary file or folder if it is there; errors are ignored.

    For cleaning up: an error there would hide the one that the cleaning up follows.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def sync(path: Path) -> None:
    """Flush a file, or the file names of a folder, to disk; OSError where that fails."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        with suppress(OSError):  # nothing was written through it
            os.close(file)


def save_tensors(
    tensors: Mapping[str, "Tensor"], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file that may be read by whom the umask allows to.

    safetensors itself makes files that only their owner may read.  Raises OSError or
    SafetensorError where it cannot be written.
    """
    from safetensors.torch import save_file  # imports torch

    path.touch()  # as any new file
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(dict(tensors), path, metadata)
    with suppress(OSError):  # a file system without permissions
        path.chmod(mode)


def run_folder(folder: Path) -> Path:
    """Run folder of a run folder (itself) or of a checkpoint (RUN/checkpoints/step-…)."""
    is_checkpoint = folder.parent.name == "checkpoints" and folder.name.startswith("step-")
    return folder.parent.parent if is_checkpoint else folder


def write_json(path: Path, content: dict) -> None:
    """Write indented JSON atomically, without secrets, creating parent folders.

    Raises UserError where `path` cannot be written.
    """
    with new_file(path) as part:
        part.write_text(json.dumps(without_secrets(content), indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where the file is absent, damaged or holds no object."""
    try:
        content = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def require_regular(path: Path) -> None:
    """Raise UserError for a FIFO, device or socket: reading one may wait forever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "special file")
        raise UserError(f"{path} is a {kind}, not a file: save its content as a file first")
