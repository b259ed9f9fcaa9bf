"""Locks between processes, on files and folders.

The system ends them with the process that holds them, however it ends.  On a file system without
locks a file stands for the lock of `locked`, a marker.  One that a killed process leaves is removed
by the next process on the same machine (with filelock 3.22 or newer); processes on other machines
wait, for ever, until somebody deletes it, which a line asks for.

`locked` is filelock's, on every system.  The others need what filelock has not: locks that forked
workers do not hold on to (`lock_alone`), shared ones, and those of folders and of files that may be
deleted meanwhile (`flock`).  They are fcntl's, which Windows lacks: there they raise OSError, as on
a file system without locks, and callers go on without.
"""

import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mae.base.output import print_error

if TYPE_CHECKING:
    from filelock import BaseFileLock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""what a file system without locks answers"""
PAUSES = (0.1, 0.2, 0.4)
"""seconds before each new attempt after ENOLCK, which may pass: a full table, a server's restart"""
MARKER = ".held"
"""suffix of the file that stands for a lock where there are none"""

_has_locks: dict[Path, bool] = {}
"""by folder, as this process found it"""
_said: set[Path] = set()
"""markers that a line was printed for"""


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `path` among all processes and threads.

    On a file system without locks a marker beside it stands for the lock.  A marker counts
    everywhere: another machine, or a process that was refused a lock, may have made it.  Without
    `wait`, raises BlockingIOError where the lock is held.
    """
    from filelock import FileLock  # slow to import

    marker = path.with_name(path.name + MARKER)
    with suppress(PermissionError):  # another user's: filelock says what is wrong
        # Here, as any new file: a lock file of filelock's may be its owner's alone.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
    with ExitStack() as held:
        try:
            if is_real := _probe(path.parent.absolute()):
                lock = FileLock(path)
                _retried(lambda: _acquire(lock, wait))
                held.callback(_release, lock)
            if not is_real or os.path.lexists(marker):
                held.callback(_release, _acquired_marker(marker, wait))
        except BlockingIOError:
            raise BlockingIOError(errno.EAGAIN, "is locked", str(path)) from None
        yield


def _probe(folder: Path) -> bool:
    """True unless the file system of `folder` has no locks, by a file that nobody else locks.

    Without locks filelock would wait for ever, or take the file that is there for one that is held.
    """
    if fcntl is None:
        return True
    if folder not in _has_locks:
        try:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".locks-") as file:
                _retried(lambda: flock(file.fileno(), wait=False))
            _has_locks[folder] = True
        except OSError as error:
            if error.errno not in NO_LOCKS:  # such as a full disk: not known
                return True
            _has_locks[folder] = False
    return _has_locks[folder]


def _retried(lock: Callable[[], None]) -> None:
    """Call `lock`, again after each of PAUSES where the system has no lock to give."""
    for pause in PAUSES:
        try:
            return lock()
        except OSError as error:
            if error.errno != errno.ENOLCK:
                raise
        time.sleep(pause)
    return lock()


def _acquired_marker(path: Path, wait: bool) -> "BaseFileLock":
    """The marker `path` as a lock that is held; a wait is said once, with its owner."""
    from filelock import SoftFileLock

    lock = SoftFileLock(path)
    with suppress(BlockingIOError):
        _acquire(lock, wait=False)  # may only remove one whose owner is gone
        return lock
    try:
        _acquire(lock, wait=False)
    except BlockingIOError:
        if not wait:
            raise
        if path not in _said:
            _said.add(path)
            print_error(f"waiting for {path} ({_owner(path)}): delete it if that process is gone")
        _acquire(lock, wait=True)
    return lock


def _owner(marker: Path) -> str:
    """Process and host that a marker of filelock's names."""
    with suppress(OSError, ValueError):
        number, host = marker.read_text().splitlines()[:2]
        return f"process {int(number)}, host {host.partition('?')[0]}"  # and a container's mark
    return "of an unknown process"


def _acquire(lock: "BaseFileLock", wait: bool) -> None:
    """Acquire a lock of filelock's; raises BlockingIOError where it is held, without `wait`."""
    from filelock import Timeout

    try:
        lock.acquire(blocking=wait)
    except Timeout:
        raise BlockingIOError(errno.EAGAIN, "is locked", str(lock.lock_file)) from None


def _release(lock: "BaseFileLock") -> None:
    """Release a lock of filelock's, whatever has become of its file."""
    with suppress(OSError):
        lock.release()


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
