"""Shards behind an address: `https://`, `s3://`, `gs://`, `hf://`, and `pipe:COMMAND`."""

import glob
import re
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from mae.base.errors import StorageError, UserError
from mae.storage.retry import Attempt, GaveUp, persist
from mae.storage.transport import backend, receive_file, run_pipe

VERSIONS = (
    "ETag etag generation blob_id xet_hash oid Last-Modified LastModified updated mtime".split()
)
"""what file systems call that which changes with the file, best first"""
SIGNING = re.compile(
    r"x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id"
    r"|sig|se|sp|sv|sr|st|spr|sip|sk(oid|tid|t|e|s|v)",
    re.IGNORECASE,
)
"""query parameters of signed URLs (S3, Google, CloudFront, Azure): they tell who may read"""

T = TypeVar("T")


class RemoteFile(NamedTuple):
    """What a server says of a file."""

    size: int | None
    """bytes; None where it does not say"""
    version: str
    """changes when the file does; "" where there is no such thing"""


def is_remote(location: str) -> bool:
    """Whether this is an address (`scheme://…`, `pipe:…`), not a local path."""
    return re.match(r"[A-Za-z][\w+.-]*://|pipe:", location) is not None


def redacted(text: str) -> str:
    """The text with the secrets of its URLs cut out: user info, queries, keys in headers."""
    text = re.sub(r"(://)[^/@\s'\"?]*@", r"\1", text)
    text = re.sub(r"(?i)(\bhttps?://[^\s'\"?#]*)[?#][^\s'\")>]*", r"\1", text)
    # Elsewhere `?` may be a glob's: only `?name=value` is a query.
    text = re.sub(r"(\b[\w+.-]+://[^\s'\"?]*)\?[\w.-]+=[^\s'\")>]*", r"\1", text)
    return re.sub(r"(?i)\b(authorization:\s*)[^'\"]+", r"\1…", text)


def identity(location: str) -> str:
    """Equal for two addresses of one file: without user info and what signs a URL."""
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


def refuse_pipe(location: str, allow_pipe: bool) -> None:
    """UserError for a `pipe:` that nobody allowed."""
    if location.startswith("pipe:") and not allow_pipe:
        raise UserError(
            f"{redacted(location)}: would run a command on this machine: "
            "data.allow_pipe=true allows it"
        )


def stat(location: str) -> RemoteFile:
    """Size and version, asked anew each time.

    Raises StorageError where they cannot be had, UserError for a folder, for a scheme that is
    unknown or needs a package that is not installed.
    """
    if location.startswith("pipe:"):
        return RemoteFile(None, "")

    def ask(attempt: Attempt) -> dict[str, Any]:
        files, path, scheme = backend(location)
        # Hugging Face's keeps listings whatever it is told.
        return files.info(path, **({"refresh": True} if scheme == "hf" else {}))

    info = _persist(location, ask)
    if info.get("type") == "directory":
        raise UserError(f"{redacted(location)}: is a folder: write {redacted(location)}/*.tar")
    version = next((str(info[name]) for name in VERSIONS if info.get(name)), "")
    return RemoteFile(info.get("size"), version)


def glob_remote(pattern: str) -> list[str]:
    """The files that match, sorted; none is an empty list.

    Raises UserError for http(s), where nothing lists files; StorageError as `stat` does.
    """
    scheme = pattern.partition("://")[0].lower()
    if scheme in ("http", "https"):
        raise UserError(
            f"{redacted(pattern)}: web servers do not list files: write {{000000..000009}}, not *"
        )

    def ask(attempt: Attempt) -> list[str]:
        files, path, _ = backend(pattern)
        files.invalidate_cache()
        return [str(name) for name in files.glob(path)]

    return [f"{scheme}://{name}" for name in sorted(_persist(pattern, ask))]


def has_magic(location: str) -> bool:
    """Whether a remote address is a pattern.  In a web address `?` starts the query."""
    if location.lower().startswith(("http://", "https://")):
        return "*" in location.partition("?")[0]
    return glob.has_magic(location)


def download(
    location: str, target: BinaryIO, size: int | None = None, allow_pipe: bool = False
) -> int:
    """The whole body into `target`, from its start; the number of bytes.

    Tried again after errors of the network and the server, after a stall, and where there are
    fewer or more bytes than `size` or than the server announced.
    Raises StorageError, UserError as `stat` does; OSError where `target` cannot be written.
    """
    refuse_pipe(location, allow_pipe)

    def receive(attempt: Attempt) -> int:
        if location.startswith("pipe:"):
            run_pipe(location.removeprefix("pipe:"), attempt)
        else:
            receive_file(location, attempt)
        expected = attempt.announced if size is None else size
        if expected is not None and attempt.written != expected:
            raise ConnectionError(f"ends at byte {attempt.written} of {expected}")
        return attempt.written

    written = _persist(location, receive, target, size)
    target.flush()
    return written


def _persist(
    location: str,
    work: Callable[[Attempt], T],
    target: BinaryIO | None = None,
    size: int | None = None,
) -> T:
    try:
        return persist(work, target, size)
    except GaveUp as failure:
        raise StorageError(f"{redacted(location)}: {redacted(str(failure))}") from None
