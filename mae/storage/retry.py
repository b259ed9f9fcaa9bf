"""Retries with exponential backoff and a stall timeout.

Each attempt runs in a thread of its own: a library that waits forever on a dead connection cannot
be interrupted, only abandoned.
"""

import random
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, BinaryIO, TypeVar

from mae.base.errors import UserError
from mae.base.redaction import redacted

MAX_ATTEMPTS = 8
FIRST_DELAY = 1.0
"""seconds before the second attempt, doubled for each further one"""
MAX_DELAY = 60.0
"""seconds"""
MAX_RETRY_AFTER = 120.0
"""maximum number of seconds to wait on a server's request (`Retry-After`)"""
STALL_TIMEOUT = 60.0
"""seconds in which STALL_TIMEOUT * MIN_RATE bytes must come, or else an attempt fails"""
MIN_RATE = 1000
"""slowest transfer in bytes per second"""
RETRYABLE_STATUSES = (408, 425, 429)
"""HTTP client errors (4xx) that are retried: timeout, too early, too many requests"""

T = TypeVar("T")
Check = Callable[[int], None]
"""called with the number of bytes before they are written; raises UserError where those are too
many"""


class RetriesExhausted(Exception):
    """Failure of all attempts; the message holds the last error and the number of attempts."""

    is_absent = False
    """the server has no such file, or no access to one (some answer so where there is none)"""


class Attempt:
    """One attempt of a transfer into `target`, of `size` bytes where that is known."""

    def __init__(
        self, target: BinaryIO | None = None, size: int | None = None, check: Check | None = None
    ) -> None:
        self.target = target
        self.size = size
        self.check = check
        self.reported_size: int | None = None
        """size in bytes as reported by the server"""
        self.written = 0
        """bytes written to `target` so far"""
        self.target_error: OSError | None = None
        """error of writing to `target`, which is not retried"""
        self.cancel: Callable[[], None] = lambda: None
        """ends what the attempt has started, such as a shell command"""
        self._lock = threading.Lock()
        self._abandoned = False
        self._ended = threading.Event()
        self._mark = (time.monotonic(), 0)
        """time at which that many bytes were written, MIN_RATE kept until then"""

    def write(self, data: bytes) -> int:
        """Append to the target; returns the number of bytes.

        Raises ConnectionError where the body has another size than `size` or the attempt was
        abandoned, OSError where the target cannot be written.
        """
        if self.size is not None and self.reported_size not in (None, self.size):
            raise ConnectionError(f"has {self.reported_size} bytes, expected {self.size}")
        if self.size is not None and self.written + len(data) > self.size:
            raise ConnectionError(f"has more bytes than the {self.size} expected")
        if self.check:
            self.check(self.written + len(data))
        with self._lock:
            if self._abandoned or self.target is None:
                raise ConnectionAbortedError("abandoned")
            rest = memoryview(data)
            while rest:
                try:
                    rest = rest[self.target.write(rest) :]
                except OSError as error:
                    self.target_error = error
                    raise
            self.written += len(data)
            if self.written - self._mark[1] >= STALL_TIMEOUT * MIN_RATE:
                self._mark = (time.monotonic(), self.written)
        return len(data)

    def run(self, work: Callable[["Attempt"], T]) -> T:
        """Return or raise what `work(self)` does in a daemon thread.

        Raises TimeoutError where nothing, or less than MIN_RATE, comes for STALL_TIMEOUT seconds.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def work_here() -> None:
            try:
                results.append(work(self))
            except BaseException as error:
                errors.append(error)
            self._ended.set()

        # A daemon: a thread that is stuck must not keep the process alive.
        threading.Thread(target=work_here, name="mae-download", daemon=True).start()
        try:
            while not self._ended.wait(max(0.0, self._seconds_to_stall())):
                if self._seconds_to_stall() <= 0:
                    came = self.written - self._mark[1]
                    what = f"only {came:,} bytes" if came else "nothing"
                    raise TimeoutError(f"{what} came for {STALL_TIMEOUT:g} s")
        finally:
            with self._lock:  # from here on a late write is refused
                self._abandoned = True
            self.cancel()
        if errors:
            raise errors[0] if isinstance(errors[0], Exception) else ConnectionError("cancelled")
        return results[0]

    def _seconds_to_stall(self) -> float:
        return self._mark[0] + STALL_TIMEOUT - time.monotonic()


def call_with_retries(
    work: Callable[[Attempt], T],
    target: BinaryIO | None = None,
    size: int | None = None,
    check: Check | None = None,
) -> T:
    """Call `work` in up to MAX_ATTEMPTS attempts, emptying `target` before each.

    Raises RetriesExhausted with the last error, a UserError of `work` at once, and OSError where
    `target` cannot be written.
    """
    for number in range(1, MAX_ATTEMPTS + 1):
        if target is not None:
            target.seek(0)
            target.truncate()
        attempt = Attempt(target, size, check)
        try:
            return attempt.run(work)
        except UserError:
            raise
        except Exception as error:
            if attempt.target_error is not None:
                raise attempt.target_error from None
            cause = _root_cause(error)
            if not _is_retryable(cause) or number == MAX_ATTEMPTS:
                times = "once" if number == 1 else f"{number} times"
                failure = RetriesExhausted(f"{_reason(cause)} (tried {times})")
                failure.is_absent = _is_absent(cause)
                raise failure from None
            retry_after = _retry_after(cause)
        time.sleep(max(_retry_delay(number), retry_after))
    raise AssertionError("unreachable")


def _retry_delay(number: int) -> float:
    """Seconds to wait after attempt `number`, with jitter: many clients may fail at one time."""
    return min(MAX_DELAY, FIRST_DELAY * 2 ** (number - 1) * (1 + random.random() / 2))


def _root_cause(error: BaseException) -> BaseException:
    """Error behind a FileNotFoundError of fsspec, which it raises for errors of any kind."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return error.__cause__
    return error


def _is_malformed_answer(error: BaseException) -> bool:
    """True for an answer that is no HTTP, to which aiohttp itself gives the status 400."""
    return hasattr(error, "status") and error.__cause__ is not None


def _lacks_credentials(error: BaseException) -> bool:
    # By its text: botocore, whose error it is, may not be installed.
    return "Unable to locate credentials" in str(error)


def _is_retryable(error: BaseException) -> bool:
    """True unless another attempt would certainly fail as well."""
    if _is_malformed_answer(error):
        return True
    if status := _status(error):
        return status >= 500 or status in RETRYABLE_STATUSES
    return not (isinstance(error, FileNotFoundError | PermissionError) or _lacks_credentials(error))


def _is_absent(error: BaseException) -> bool:
    absent = (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
    return isinstance(error, FileNotFoundError | PermissionError) or _status(error) in absent


def _reason(error: BaseException) -> str:
    """One line for the user."""
    if _is_malformed_answer(error):
        return "the answer is no HTTP"
    if status := _status(error):
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
        return f"HTTP {status} {phrase}".strip()
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "access denied"
    if _lacks_credentials(error):
        return "no credentials: set them, or FSSPEC_S3_ANON=true for a public bucket"
    lines = str(error).strip().splitlines()
    return redacted(lines[-1])[:200] if lines else type(error).__name__


def _status(error: Any) -> int | None:
    """HTTP status (400 to 599) of an error of aiohttp, httpx, botocore or gcsfs, else None."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif hasattr(error, "status"):
        status = error.status
    else:
        status = getattr(response, "status_code", getattr(error, "code", None))
    return status if isinstance(status, int) and 400 <= status < 600 else None


def _retry_after(error: Any) -> float:
    """Seconds to wait as requested by an overloaded server (header Retry-After), else 0.0."""
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
    return min(MAX_RETRY_AFTER, max(0.0, seconds))


def _seconds_until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()
