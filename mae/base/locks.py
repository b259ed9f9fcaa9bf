"""Locks between processes, on files and folders; none outlives the process that holds it.

`locked` is filelock's, on every system.  The others need what filelock has not: locks that forked
workers do not hold on to (`lock_alone`), shared ones, and those of folders and of files that may be
deleted meanwhile (`flock`).  They are fcntl's, which Windows lacks: there they raise OSError, as on
a file system without locks, and callers go on without.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mae.base.output import print_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""what a file system without locks answers"""
MARKER = ".held"
"""suffix of the file that stands for a lock where there are none"""

_said: set[Path] = set()
"""folders without locks that a line was printed for"""


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `path` among all processes and threads; released at exit or kill.

    On a file system without locks a file beside it stands for the lock, which is said once; that
    one may outlive a process that is killed.  Without `wait`, raises BlockingIOError where the lock
    is held.
    """
    from filelock import FileLock, SoftFileLock, Timeout  # slow to import

    if _has_locks(path):
        lock = FileLock(path)
    else:
        marker = path.with_name(path.name + MARKER)
        lock = SoftFileLock(marker)
        if path.parent not in _said:
            _said.add(path.parent)
            print_error(
                f"{path.parent}: no locks on this file system: files *{MARKER} stand for them; "
                "delete one that a killed process has left"
            )
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        raise BlockingIOError(errno.EAGAIN, "is locked", str(path)) from None
    try:
        yield
    finally:
        with suppress(OSError):
            lock.release()


def _has_locks(path: Path) -> bool:
    """True unless the file system of `path`, which is made, has no locks.

    filelock would wait for them for ever, or take the file that is there for one that is held.
    """
    try:
        # Here, as any new file: a lock file of filelock's may be its owner's alone.
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's: filelock says what is wrong
        return True
    try:
        # A shared one keeps others that look from nothing, unlike an exclusive one.
        if fcntl is not None:
            flock(file, shared=True, wait=False)
    except OSError as error:
        return error.errno not in NO_LOCKS
    finally:
        os.close(file)
    return True


def flock(file: int, *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file or folder, until it is closed here and in all processes forked since.

    Raises BlockingIOError where another process holds a lock that excludes this one, without
    `wait`; OSError where the system or the file system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOSYS, "this system has no such locks")
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(file, kind | (0 if wait else fcntl.LOCK_NB))


def lock_alone(file: int) -> None:
    """Lock an open file for this process without those that it forks, until it ends.

    Data workers that outlive a killed run must not keep its folder locked, and network file systems
    know these locks, of POSIX, best.  Raises BlockingIOError and OSError as `flock`.
    """
    if fcntl is None:
        raise OSError(errno.ENOSYS, "this system has no such locks")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # what some systems say instead
        raise BlockingIOError(errno.EAGAIN, error.strerror) from None
