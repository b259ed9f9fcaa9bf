"""Tries that end: each watched in a thread of its own, repeated after growing pauses.

A library that waits forever on a dead connection cannot be interrupted, only left alone: so
whoever asks waits here, and gives up a try in which nothing moves.

Waiting threads are not joined at exit, as those of `concurrent.futures` are: one slow download
would hold a process that was interrupted, or has failed, for minutes.
"""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from queue import Queue
from typing import Any, BinaryIO, Self, TypeVar

from mae.base.errors import UserError

ATTEMPTS = 8
FIRST_DELAY = 1.0
"""seconds before the second try; doubles with each"""
LONGEST_DELAY = 60.0
LONGEST_ASKED_FOR = 120.0
"""seconds that a server may make us wait"""
STALL = 60.0
"""seconds without a byte after which a try has failed"""
WORTH_A_RETRY = (408, 425, 429)
"""the HTTP answers 4xx that time may mend; no other is asked for again"""

T = TypeVar("T")


class GaveUp(Exception):
    """No try succeeded: the reason of the last one, and how many there were."""


class Attempt:
    """One try, and what it has written so far to `target` (`size` bytes, where that is known)."""

    def __init__(self, target: BinaryIO | None = None, size: int | None = None) -> None:
        self.target = target
        self.size = size
        self.announced: int | None = None
        """bytes that the server says will come"""
        self.written = 0
        self.unwritable: OSError | None = None
        """why `target` took no more: not the sender's fault, and no reason to try again"""
        self.cancel: Callable[[], None] = lambda: None
        """ends what the try has started"""
        self._lock = threading.Lock()
        self._given_up = False
        self._ended = threading.Event()
        self._moved = time.monotonic()

    def write(self, data: bytes) -> int:
        """Append to the target.  Raises what ends a try: a body too long, or no longer wanted."""
        if self.size is not None and self.announced not in (None, self.size):
            raise ConnectionError(f"has {self.announced} bytes, expected {self.size}")
        if self.size is not None and self.written + len(data) > self.size:
            raise ConnectionError(f"has more bytes than the {self.size} expected")
        with self._lock:
            if self._given_up or self.target is None:
                raise ConnectionAbortedError("given up")
            rest = memoryview(data)
            while rest:
                try:
                    rest = rest[self.target.write(rest) :]
                except OSError as error:
                    self.unwritable = error
                    raise
            self.written += len(data)
            self._moved = time.monotonic()
        return len(data)

    def run(self, work: Callable[["Attempt"], T]) -> T:
        """What `work(self)` returns or raises; TimeoutError where nothing moves for STALL s."""
        results: list[T] = []
        errors: list[BaseException] = []

        def work_here() -> None:
            try:
                results.append(work(self))
            except BaseException as error:
                errors.append(error)
            self._ended.set()

        # A daemon: one that is stuck for good must not keep the process from ending.
        threading.Thread(target=work_here, name="mae-download", daemon=True).start()
        try:
            while not self._ended.wait(max(0.0, self._moved + STALL - time.monotonic())):
                if time.monotonic() - self._moved >= STALL:
                    raise TimeoutError(f"nothing came for {STALL:g} s")
        finally:
            with self._lock:  # from here on a late write cannot reach the target
                self._given_up = True
            self.cancel()
        if errors:
            raise errors[0] if isinstance(errors[0], Exception) else ConnectionError("cancelled")
        return results[0]


def persist(
    work: Callable[[Attempt], T], target: BinaryIO | None = None, size: int | None = None
) -> T:
    """`work` in up to ATTEMPTS tries, `target` emptied before each.

    Raises GaveUp; UserError as `work` met it; OSError where `target` cannot be written.
    """
    for number in range(1, ATTEMPTS + 1):
        if target is not None:
            target.seek(0)
            target.truncate()
        attempt = Attempt(target, size)
        try:
            return attempt.run(work)
        except UserError:
            raise
        except Exception as error:
            if attempt.unwritable is not None:
                raise attempt.unwritable from None
            cause = _cause(error)
            reason, final = _judge(cause)
            asked_for = _asked_for(cause)
            if final or number == ATTEMPTS:
                times = "once" if number == 1 else f"{number} times"
                raise GaveUp(f"{reason} (tried {times})") from None
        time.sleep(max(_delay(number), asked_for))
    raise AssertionError("unreachable")


def _delay(number: int) -> float:
    """Seconds after the try of that number; not the same for all who failed at one time."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2 ** (number - 1) * (1 + random.random() / 2))


def _cause(error: BaseException) -> BaseException:
    """What went wrong: fsspec says "not found" of whatever it was."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return error.__cause__
    return error


def _judge(error: BaseException) -> tuple[str, bool]:
    """(what to tell, whether trying again is useless)."""
    if hasattr(error, "status") and error.__cause__ is not None:
        return "the answer is no HTTP", False  # aiohttp gives it 400, as if the server had said so
    if status := _status(error):
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
        return f"HTTP {status} {phrase}".strip(), _is_final(status)
    if isinstance(error, FileNotFoundError):
        return "no such file", True
    if isinstance(error, PermissionError):
        return "access denied", True
    if "Unable to locate credentials" in str(error):  # botocore's, which may not be installed
        return "no credentials: set them, or FSSPEC_S3_ANON=true for a public bucket", True
    lines = str(error).strip().splitlines()
    return (lines[-1][:200] if lines else type(error).__name__), False


def _is_final(status: int) -> bool:
    return 400 <= status < 500 and status not in WORTH_A_RETRY


def _status(error: Any) -> int | None:
    """The HTTP status in an error of aiohttp, httpx, botocore or gcsfs."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif hasattr(error, "status"):
        status = error.status
    else:
        status = getattr(response, "status_code", getattr(error, "code", None))
    return status if isinstance(status, int) and 400 <= status < 600 else None


def _asked_for(error: Any) -> float:
    """Seconds that a server which is overloaded asks us to wait (`Retry-After`); 0.0 else."""
    if _status(error) not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return 0.0
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    else:
        headers = getattr(error, "headers", None) or getattr(response, "headers", None)
    lower = {str(name).lower(): str(value) for name, value in (headers or {}).items()}
    value = lower.get("retry-after", "")
    try:
        seconds = float(value) if value.isdigit() else _seconds_until(value)
    except ValueError:
        return 0.0
    return min(LONGEST_ASKED_FOR, max(0.0, seconds))


def _seconds_until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()


class BackgroundThreads:
    """`count` daemon threads that do what is submitted, the oldest first."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._closed = False
        self._waiting: Queue[Callable[[], None] | None] = Queue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def submit(self, call: Callable[..., T], *arguments: Any) -> "Future[T]":
        """What `call(*arguments)` will return or raise."""
        future: Future[T] = Future()

        def work() -> None:
            try:
                result = call(*arguments)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._waiting.put(work)
        return future

    def close(self) -> None:
        """Begin nothing more, and wait for nothing: what runs ends by itself, or with us."""
        self._closed = True
        for _ in range(self._count):
            self._waiting.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            if not self._closed:
                work()
