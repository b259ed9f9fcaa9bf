"""Remote files (`https://`, `s3://`, `gs://`, `hf://`, `pipe:COMMAND`): stat, glob, download."""

import glob
import io
import re
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from mae.base.errors import StorageError, UserError
from mae.base.redaction import redacted, redacted_error
from mae.storage.retry import Attempt, Check, RetriesExhausted, call_with_retries
from mae.storage.transport import backend, receive_file, run_pipe

VERSIONS = (
    "ETag etag generation blob_id xet_hash oid Last-Modified LastModified updated mtime".split()
)
"""keys of a file's version in the file systems' metadata, most reliable first"""
SIGNING = re.compile(
    r"x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id"
    r"|sig|se|sp|sv|sr|st|spr|sip|sk(oid|tid|t|e|s|v)",
    re.IGNORECASE,
)
"""query parameters of signed URLs (S3, Google, CloudFront, Azure), which grant access"""
SMALL_BYTES = 16 << 20
"""maximum size of a list of class names"""

T = TypeVar("T")


class RemoteFile(NamedTuple):
    """Size and version of a file as reported by its server."""

    size: int | None
    """bytes; None where the server does not report it"""
    version: str
    """changes when the file does; "" where the server reports none"""


def is_remote(location: str) -> bool:
    """True for an address (`scheme://…`, `pipe:…`), False for a local path."""
    return re.match(r"[A-Za-z][\w+.-]*://|pipe:", location) is not None


def canonical_address(location: str) -> str:
    """Address without user info and signature: equal for two signed URLs of one file."""
    if location.startswith("pipe:") or not is_remote(location):
        return location
    parts = urlsplit(location)
    query = [
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if not SIGNING.fullmatch(name)
    ]
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, urlencode(query), ""))


def check_pipe_allowed(location: str, allow_pipe: bool) -> None:
    """Raise UserError for a `pipe:` location unless `allow_pipe`."""
    if location.startswith("pipe:") and not allow_pipe:
        raise UserError(
            f"{redacted(location)}: would run a command on this machine: "
            "data.allow_pipe=true in this call's settings, or --allow-pipe, allows it"
        )


def stat(location: str) -> RemoteFile:
    """Request the size and version of a remote file; nothing is cached.

    Raises StorageError where the request fails, UserError for a folder, an unknown scheme or a
    scheme whose package is not installed.
    """
    if location.startswith("pipe:"):
        return RemoteFile(None, "")

    def request(attempt: Attempt) -> dict[str, Any]:
        files, path, scheme = backend(location)
        # Hugging Face's file system caches listings even with use_listings_cache=False.
        return files.info(path, **({"refresh": True} if scheme == "hf" else {}))

    info = _call_with_retries(location, request)
    if info.get("type") == "directory":
        raise UserError(f"{redacted(location)}: is a folder: write {redacted(location)}/*.tar")
    version = next((str(info[name]) for name in VERSIONS if info.get(name)), "")
    return RemoteFile(info.get("size"), version)


def glob_remote(pattern: str) -> list[str]:
    """Sorted addresses of the files that match a pattern; empty where none does.

    Raises UserError for http(s), which cannot list files, and errors as `stat` does.
    """
    scheme = pattern.partition("://")[0].lower()
    if scheme in ("http", "https"):
        raise UserError(
            f"{redacted(pattern)}: web servers do not list files: write {{000000..000009}}, not *"
        )

    def request(attempt: Attempt) -> list[str]:
        files, path, _ = backend(pattern)
        files.invalidate_cache()
        return [str(name) for name in files.glob(path)]

    return [f"{scheme}://{name}" for name in sorted(_call_with_retries(pattern, request))]


def has_magic(location: str) -> bool:
    """True for a remote address with wildcards; in a web address `?` starts the query."""
    if location.lower().startswith(("http://", "https://")):
        return "*" in location.partition("?")[0]
    return glob.has_magic(location)


def at_most(limit: int, location: str) -> Check:
    """Check of a download that raises StorageError beyond `limit` bytes."""

    def check(written: int) -> None:
        if written > limit:
            raise StorageError(f"{redacted(location)}: sends more than {limit / 1e6:,.0f} MB")

    return check


def download(
    location: str,
    target: BinaryIO,
    size: int | None = None,
    allow_pipe: bool = False,
    check: Check | None = None,
) -> int:
    """Download a whole file into `target`, from its start; returns the number of bytes.

    Retried after errors of the network and the server, after a stall, and where the number of
    bytes differs from `size` or from what the server reported.  What `check` raises for the number
    of bytes ends the download: a server may announce no size, and send forever.  Raises
    StorageError and UserError as `stat` does, UserError for a `pipe:` that is not allowed, and
    OSError where `target` cannot be written.
    """
    check_pipe_allowed(location, allow_pipe)

    def receive(attempt: Attempt) -> int:
        if location.startswith("pipe:"):
            run_pipe(location.removeprefix("pipe:"), attempt)
        else:
            receive_file(location, attempt)
        expected = attempt.reported_size if size is None else size
        if expected is not None and attempt.written != expected:
            raise ConnectionError(f"ends at byte {attempt.written} of {expected}")
        return attempt.written

    written = _call_with_retries(location, receive, target, size, check)
    target.flush()
    return written


def read_if_present(location: str) -> bytes | None:
    """Contents of a small remote file; None where there is none, or no access to one.

    Raises errors as `stat` does.
    """
    body = io.BytesIO()
    try:
        check = at_most(SMALL_BYTES, location)
        call_with_retries(lambda attempt: receive_file(location, attempt), body, check=check)
    except RetriesExhausted as failure:
        if failure.is_absent:
            return None
        reason = redacted_error(str(failure), location)
        raise StorageError(f"{redacted(location)}: {reason}") from None
    return body.getvalue()


def _call_with_retries(
    location: str,
    work: Callable[[Attempt], T],
    target: BinaryIO | None = None,
    size: int | None = None,
    check: Check | None = None,
) -> T:
    try:
        return call_with_retries(work, target, size, check)
    except RetriesExhausted as failure:
        raise StorageError(
            f"{redacted(location)}: {redacted_error(str(failure), location)}"
        ) from None
