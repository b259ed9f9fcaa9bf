import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

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

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "a.lock"
    for _ in range(2):  # it is gone after each
        with locked(path):
            with pytest.raises(BlockingIOError), locked(path, wait=False):
                pass
            assert sorted(one.name for one in tmp_path.iterdir()) == ["a.lock", "a.lock.held"]
    said = capsys.readouterr().err
    assert said.count(f"{tmp_path}: no locks on this file system") == 1


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
