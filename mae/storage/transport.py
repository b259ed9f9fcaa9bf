"""Transport of bytes: fsspec's file systems, and the output of shell commands."""

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
"""bytes per read"""
EXTRAS = {
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "gcs": ("gcsfs", "gcs"),
}
"""scheme → (package, extra of mae that installs it)"""


def receive_file(location: str, attempt: Attempt) -> None:
    """Write a whole remote file to `attempt`.  Raises whatever the library raises."""
    files, path, scheme = backend(location)
    if scheme in ("http", "https"):
        # One request; opening the file to read it in chunks would request its length first.
        files.get_file(path, _WritableFile(attempt), callback=_SizeCallback(attempt))
        return
    # s3fs sends the object's version with each request: an object replaced midway is an error.
    with files.open(path, "rb", block_size=CHUNK, cache_type="none") as file:
        attempt.reported_size = getattr(file, "size", None)
        while chunk := file.read(CHUNK):
            attempt.write(chunk)


class _WritableFile:
    """File interface of an attempt, for fsspec."""

    def __init__(self, attempt: Attempt) -> None:
        self.write = attempt.write
        self.tell = lambda: attempt.written

    def read(self, size: int = -1) -> bytes:
        raise OSError("only for writing")

    def close(self) -> None:
        pass


class _SizeCallback(Callback):
    """Callback that records the size reported by the server."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self.attempt = attempt

    def set_size(self, size: int | None) -> None:
        self.attempt.reported_size = size


def run_pipe(command: str, attempt: Attempt) -> None:
    """Write the standard output of a shell command to `attempt`.

    Raises ConnectionError with the last line of its standard error where the command fails.
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
            with suppress(ProcessLookupError):  # the shell and its child processes
                os.killpg(process.pid, signal.SIGKILL)

        attempt.cancel = kill
        atexit.register(kill)  # this thread is not joined at exit
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
            attempt.cancel = lambda: None  # the process id may be reused by now
        if code:
            errors.seek(0)
            lines = errors.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
            raise ConnectionError(f"exit code {code}" + (f": {lines[-1]}" if lines else ""))


def backend(location: str) -> tuple[Any, str, str]:
    """Resolve an address to (fsspec file system, path in it, scheme).

    Called anew for every transfer: fsspec caches file systems per process, and a forked process
    must not use its parent's.  Raises UserError for an unknown scheme or a missing package.
    """
    scheme, _, rest = location.partition("://")
    scheme = scheme.lower()
    web: dict[str, Any] = {}
    if scheme in ("http", "https"):
        # A quoted address is sent unchanged: its signature may cover the quoted spelling.
        web = {"get_client": _web_client, "encoded": "%" in rest}
    try:
        files = fsspec.filesystem(scheme, use_listings_cache=False, **web)
    except ImportError as error:
        if scheme not in EXTRAS:
            raise UserError(f"{scheme}://…: {error}") from None
        package, extra = EXTRAS[scheme]
        raise UserError(f"{scheme}://…: needs {package}: pip install 'maekit[{extra}]'") from None
    except ValueError:
        raise UserError(f"{scheme}://…: unknown kind of address") from None
    return files, files._strip_protocol(f"{scheme}://{rest}"), scheme


async def _web_client(**options: Any) -> aiohttp.ClientSession:
    """Session with the environment's proxies, without compression or total timeout.

    aiohttp's default timeout ends every transfer after five minutes.  Connections are closed
    after each request: two processes would share them after a fork.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=retry.STALL_TIMEOUT)
    defaults: dict[str, Any] = {
        "trust_env": True,
        "timeout": timeout,
        "headers": {"Accept-Encoding": "identity"},
        "connector": aiohttp.TCPConnector(force_close=True),
    }
    return aiohttp.ClientSession(**{**defaults, **options})
