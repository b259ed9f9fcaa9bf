"""How bytes come: fsspec's file systems, and the output of a command."""

import atexit
import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from typing import Any

import aiohttp
import fsspec
from fsspec.callbacks import Callback

from mae.base.errors import UserError
from mae.storage import retry
from mae.storage.retry import Attempt

CHUNK = 4 << 20
EXTRAS = {
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "gcs": ("gcsfs", "gcs"),
}


def receive_file(location: str, attempt: Attempt) -> None:
    """The whole file, written to the attempt.  Raises whatever the library raises."""
    files, path, scheme = backend(location)
    if scheme in ("http", "https"):
        # One request; what reads a web file in pieces would ask for its length first.
        files.get_file(path, _FileLike(attempt), callback=_Announcement(attempt))
        return
    # S3 files name their version in each request: an object replaced midway is an error.
    with files.open(path, "rb", block_size=CHUNK, cache_type="none") as file:
        attempt.announced = getattr(file, "size", None)
        while chunk := file.read(CHUNK):
            attempt.write(chunk)


class _FileLike:
    """An attempt, as fsspec wants a file to look."""

    def __init__(self, attempt: Attempt) -> None:
        self.write = attempt.write
        self.tell = lambda: attempt.written

    def read(self, size: int = -1) -> bytes:
        raise OSError("only for writing")

    def close(self) -> None:
        pass


class _Announcement(Callback):
    """Hears the length that the server announces."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self.attempt = attempt

    def set_size(self, size: int | None) -> None:
        self.attempt.announced = size


def run_pipe(command: str, attempt: Attempt) -> None:
    """What a shell command prints, written to the attempt.

    Raises ConnectionError with its last words where it fails.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )

        def kill() -> None:
            with suppress(ProcessLookupError):  # the shell and all that it has started
                os.killpg(process.pid, signal.SIGKILL)

        attempt.cancel = kill
        atexit.register(kill)  # where nobody waits for this thread any more
        try:
            assert process.stdout is not None
            with process.stdout:
                while chunk := os.read(process.stdout.fileno(), CHUNK):
                    attempt.write(chunk)
        except BaseException:
            kill()
            raise
        finally:
            code = process.wait()
            atexit.unregister(kill)
            attempt.cancel = lambda: None  # the number may be another process's by now
        if code:
            errors.seek(0)
            said = errors.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
            raise ConnectionError(f"exit code {code}" + (f": {said[-1]}" if said else ""))


def backend(location: str) -> tuple[Any, str, str]:
    """(fsspec's file system, the file's name in it, the scheme).

    Asked for in every call: fsspec keeps one per process, and a process that was forked must
    not use its parent's.  Raises UserError for a scheme unknown or a package not installed.
    """
    scheme, _, rest = location.partition("://")
    scheme = scheme.lower()
    web: dict[str, Any] = {}
    if scheme in ("http", "https"):
        # What is quoted already is sent as it is: a signature may be over the very letters.
        web = {"get_client": _web_client, "encoded": "%" in rest}
    try:
        files = fsspec.filesystem(scheme, use_listings_cache=False, **web)
    except ImportError as error:
        if scheme not in EXTRAS:
            raise UserError(f"{scheme}://…: {error}") from None
        package, extra = EXTRAS[scheme]
        raise UserError(f"{scheme}://…: needs {package}: pip install 'mae[{extra}]'") from None
    except ValueError:
        raise UserError(f"{scheme}://…: no kind of address that is known") from None
    return files, files._strip_protocol(f"{scheme}://{rest}"), scheme


async def _web_client(**options: Any) -> aiohttp.ClientSession:
    """A session with the environment's proxies, no limit on the whole time, bodies as they are.

    Its own default ends every transfer after five minutes.  No connection is kept: after a fork
    two processes would hold it.
    """
    defaults: dict[str, Any] = {
        "trust_env": True,
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=retry.STALL),
        "headers": {"Accept-Encoding": "identity"},
        "connector": aiohttp.TCPConnector(force_close=True),
    }
    return aiohttp.ClientSession(**{**defaults, **options})
