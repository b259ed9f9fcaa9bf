import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from filelock import SoftFileLock

from mae.base import locks
from mae.base.locks import flock, lock_alone, locked


def is_free(path):
    """True where another process gets the lock of `locked` at once."""
    program = f"from mae.base.locks import locked\nfrom pathlib import Path\n{TRY.format(path)}"
    return subprocess.run([sys.executable, "-c", program]).returncode == 0


TRY = """\
try:
    with locked(Path({!r}), wait=False):
        pass
except BlockingIOError:
    raise SystemExit(1)
"""


def test_a_lock_excludes_processes_and_threads_until_it_is_left(tmp_path):
    path = tmp_path / "a.lock"
    found = []

    def attempt():
        try:
            with locked(path, wait=False):
                found.append("free")
        except BlockingIOError:
            found.append("held")

    with locked(path):
        assert not is_free(str(path))
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert found == ["held"]
    child = None
    with locked(path):
        child = os.fork()
        if not child:
            os.read(os.pipe()[0], 1)  # until it is killed
    try:
        assert is_free(str(path))  # a child that was forked meanwhile does not keep it
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_stands_for_a_lock_where_there_are_none(tmp_path, monkeypatch, capsys, code):
    def refuse(file, kind):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks, "PAUSES", (0,))
    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "a.lock"
    for _ in range(2):  # it is gone after each
        with locked(path):
            with pytest.raises(BlockingIOError), locked(path, wait=False):
                pass
            assert sorted(one.name for one in tmp_path.iterdir()) == ["a.lock", "a.lock.held"]
    assert capsys.readouterr().err == ""


def test_locks_that_are_refused_for_a_moment_are_still_locks(tmp_path, monkeypatch):
    answers = iter([errno.ENOLCK, errno.ENOLCK, 0, errno.ENOLCK, 0])  # the probe, and the lock
    real = fcntl.flock

    def refuse_at_first(file, kind):
        if code := next(answers, 0):
            raise OSError(code, os.strerror(code))
        real(file, kind)

    monkeypatch.setattr(locks, "PAUSES", (0, 0))
    monkeypatch.setattr(fcntl, "flock", refuse_at_first)
    with locked(tmp_path / "a.lock"):
        assert [one.name for one in tmp_path.iterdir()] == ["a.lock"]
        assert not is_free(str(tmp_path / "a.lock"))


def test_a_marker_holds_where_there_are_locks(tmp_path):
    """As made by a process, or a machine, that found none."""
    path = tmp_path / "a.lock"
    with SoftFileLock(tmp_path / "a.lock.held"):
        assert not is_free(str(path))
    assert is_free(str(path))
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        pass
    (tmp_path / "a.lock.held").write_text(f"{gone.pid}\n{host_name()}\n")
    with locked(path, wait=False):
        assert not is_free(str(path))
    assert [one.name for one in tmp_path.iterdir()] == ["a.lock"]


def host_name():
    """The host as filelock writes it."""
    with tempfile.TemporaryDirectory() as folder, SoftFileLock(Path(folder) / "one") as lock:
        return Path(lock.lock_file).read_text().splitlines()[1]


def test_the_wait_for_a_marker_of_another_host_names_the_file_once(tmp_path, capsys):
    path, marker = tmp_path / "a.lock", tmp_path / "a.lock.held"
    for _ in range(2):
        marker.write_text("12\nelsewhere?pidns-1f\n")
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
        timer = threading.Timer(0.2, marker.unlink)
        timer.start()
        with locked(path):
            assert timer.finished.is_set()
        timer.join()
    line = f"waiting for {marker} (process 12, host elsewhere): delete it if that process is gone\n"
    assert capsys.readouterr().err == line


def test_a_look_for_locks_disturbs_nobody(tmp_path, monkeypatch):
    """Another process tries the lock, without waiting, while this one looks for locks."""
    path, real, found = tmp_path / "a.lock", fcntl.flock, []

    def look(file, kind):
        real(file, kind)
        if kind != fcntl.LOCK_UN:
            found.append(is_free(str(path)))

    path.touch()
    monkeypatch.setattr(fcntl, "flock", look)
    for _ in range(2):
        with locked(path):
            pass
    assert found == [True, False, False]  # one look in a folder; the locks


def test_shared_locks_exclude_others_only(tmp_path):
    files = [os.open(tmp_path, os.O_RDONLY) for _ in range(3)]  # a folder
    flock(files[0], shared=True)
    flock(files[1], shared=True, wait=False)
    with pytest.raises(BlockingIOError):
        flock(files[2], wait=False)
    for file in files:
        os.close(file)


def test_forked_processes_do_not_keep_the_lock_of_one_alone(tmp_path):
    file = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    lock_alone(file)
    child = os.fork()
    if not child:
        try:
            lock_alone(file)  # the parent's, and not this process's
        except BlockingIOError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    os.close(file)


def test_a_system_without_such_locks_and_signals():
    """As on Windows: commands are imported, and what they lock is as on a disk without locks."""
    program = """if True:
        import signal, sys
        import psutil  # has a part for each system
        sys.modules["fcntl"] = None
        for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGCHLD"):
            delattr(signal, name)
            del signal.Signals._member_map_[name]
        import mae.cli, mae.training.start, mae.pack.packed_folders
        from mae.base.locks import flock, lock_alone
        for lock in (flock, lock_alone):
            try:
                lock(0)
            except OSError:
                print("none")
        sys.platform = "win32"
        sys.exit(mae.cli.main(["recipes"]))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "none\nnone\n"), done.stderr
    assert done.stderr == "mae: Windows itself is not supported: run it in WSL, its Linux\n"
