"""Atomic writing of files and folders, JSON files, and the run folder of a checkpoint."""

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from mae.base.errors import StorageError, UserError
from mae.base.locks import flock
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


def require_name(out: Path, kind: str = "file or folder") -> None:
    """Raise UserError for `.`, `/` and `..`, beside which nothing can be written: `kind` says what.

    Results get their name at the end, and `with_name` needs one.
    """
    if out.name in ("", ".."):
        raise UserError(f"{out}: write the name of a new {kind}")


def require_new_folder(out: Path) -> None:
    """Raise UserError unless `out` is the name of a new or an empty folder."""
    require_name(out, "folder")
    try:
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file; write the name of a new folder")
        if out.exists() and any(out.iterdir()):
            raise UserError(
                f"{out}: is not empty; nothing is overwritten: write the name of a new folder"
            )
    except OSError as error:
        raise UserError(f"{out}: cannot be read: {error.strerror}") from None


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`, which becomes `out` at the end of the block.

    After an error in the block the temporary folder is deleted; those that killed processes left
    are deleted at the start.  Of processes that write the same `out`, the first one to end wins.
    Raises UserError as `require_new_folder`, and where `out` cannot be written.
    """
    require_new_folder(out)
    _discard_abandoned(out)
    try:
        part, lock = _locked_part(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error}") from None
    try:
        yield part
        if out.exists():
            out.rmdir()
        part.rename(out)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out}: cannot be written: {error}") from None
    finally:
        discard(part)
        os.close(lock)


def _locked_part(out: Path) -> tuple[Path, int]:
    """New temporary folder beside `out`, and its lock, which ends with the process."""
    while True:
        part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
        part.mkdir(parents=True)
        with suppress(FileNotFoundError):
            lock = os.open(part, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks
                flock(lock)
            if part.exists():
                return part, lock
            os.close(lock)
        # Another process took it for abandoned before it was locked.


def _discard_abandoned(out: Path) -> None:
    """Delete temporary folders of `out` that no process has locked."""
    for part in out.parent.glob(f".{escape(out.name)}.{'[0-9a-f]' * 8}.part"):
        if not part.is_dir():
            continue  # of `new_file`
        with suppress(OSError):
            lock = os.open(part, os.O_RDONLY)
            try:
                flock(lock, wait=False)
                discard(part)
            finally:
                os.close(lock)


@contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """Yield a temporary path beside `out`, which replaces `out` at the end of the block.

    After an error in the block the temporary file is deleted and `out` stays as it was.  Raises
    UserError where `out` has no name or cannot be written.
    """
    require_name(out, "file")
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        discard(part)  # absent: renamed, or never written


def publish(folder: Path, out: Path) -> None:
    """Rename the complete `folder` to `out`, a new or an empty one.

    Raises StorageError where that fails.
    """
    try:
        sync(folder)
        if out.exists():
            out.rmdir()
        folder.rename(out)
        sync(out.parent)
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error.strerror}") from None


def link_new(part: Path, file: Path) -> None:
    """Give `part` the name `file` unless that is there: of processes that try, one succeeds.

    On a file system without links it is replaced, and `part` is gone.  Raises FileNotFoundError
    where the folder is gone, OSError where it cannot be written.
    """
    try:
        os.link(part, file)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise
    except OSError:
        part.replace(file)


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


def file_identity(path: Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds: a file that changed has another.

    Raises StorageError where the file is not there.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from None
    return status.st_size, status.st_mtime_ns


def file_content(path: Path) -> bytes:
    """Content of a file.  Raises StorageError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from None


def require_regular(path: Path) -> None:
    """Raise UserError for a FIFO, device or socket: reading one may wait forever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "special file")
        raise UserError(f"{path} is a {kind}, not a file: save its content as a file first")
