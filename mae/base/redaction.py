"""Text for people, files and servers without secrets and without control characters.

Addresses may be signed or hold a password, `pipe:` commands may hold tokens, and names come from
data of strangers.  `redacted` is the one place where a location becomes text.
"""

import hashlib
import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from mae.base.printable import printable

# Repetitions that begin anywhere are bounded: names of strangers must not take quadratic time.
SECRET_NAMES = (
    r"x-amz-[\w-]{1,80}|x-goog-[\w-]{1,80}|awsaccesskeyid|googleaccessid|signature|sig|policy"
    r"|credential|key-pair-id|(?:access|auth|hf|id|refresh|sas|security|session)[_-]?token|token|jwt"
    r"|aws_secret_access_key|api[_-]?key|client[_-]?secret|secret|password|passwd|pwd"
)
QUERY = re.compile(r"\?[^\s'\")>]*")
"""query, also behind a mere path, as in messages of libraries"""
SECRET = re.compile(rf"(?i)\b(?:{SECRET_NAMES})=")
ASSIGNMENT = re.compile(
    r"(?i)(?<![\w.-])((?:x-amz-[\w-]+|x-goog-[\w-]+|aws_[\w]*|hf_token|\w*api[_-]?key|"
    r"signature|sig|client[_-]?secret|\w*password|passwd|(?:access|auth|sas|session)[_-]?token)"
    r"\s?=\s?)[^\s&'\",;)]+"
)
HEADER = re.compile(
    r"(?i)\b((?:proxy-)?authorization|cookie|api-?key|[\w-]{1,80}-(?:token|key|secret)):"
    r"\s*[^'\"\n]+"
)
CREDENTIALS = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?i:\bbearer\s+)[\w.~+/=-]{8,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\beyJ[\w-]{8,500}\.[\w-]+\.[\w-]+"
)
USER_INFO = re.compile(r"(://)[^/\s'\"?#]*@(?=[^/\s]*(?:[/\s'\"?#]|$))")
PIPE = re.compile(r"\bpipe:(?=[^\s`'\"…])(?!COMMAND\b)(?![\w./+-]*…[0-9a-f]{8})[^\n]*")
"""a command up to the end of its line; neither documentation nor a command that is redacted"""

SHORTEST_WORD = 6
"""characters from which on a word of a command is taken for a secret"""
MARK = "…"
"""stands for a removed secret in recorded settings"""


def file_name(location: str) -> str:
    """Last part of a path or address, without query; of fingerprints too, as `unsigned`."""
    return unsigned(location).rpartition("/")[2]


def unsigned(text: str) -> str:
    """Remove user info, queries and authorization headers from the URLs of a text.

    Part of the fingerprints of data sets, so it never changes; `redacted` removes more.
    """
    text = re.sub(r"(://)[^/@\s'\"?]*@", r"\1", text)
    # What is removed is optional, so that each address is read once.
    text = re.sub(r"(?i)(\bhttps?://[^\s'\"?#]*)(?:[?#][^\s'\")>]*)?", r"\1", text)
    # In other addresses `?` may be a wildcard: only `?name=value` is a query.
    text = re.sub(r"(\w[+.-]*://[^\s'\"?]*)(?:\?[\w.-]+=[^\s'\")>]*)?", r"\1", text)
    return re.sub(r"(?i)\b(authorization:\s*)[^'\"]+", r"\1…", text)


def redacted(text: str) -> str:
    """A location, or a text that may hold some, without secrets.

    Removed are user info and queries of URLs, tokens and keys of known forms, and the words of
    `pipe:` commands, which keep their program and a hash that distinguishes commands.
    """
    if text.startswith("pipe:") and PIPE.match(text):
        return _pipe_name(text)
    text = PIPE.sub(lambda found: _pipe_name(found[0]), text)
    text = unsigned(USER_INFO.sub(r"\1", text))
    text = QUERY.sub(lambda found: "" if SECRET.search(found[0]) else found[0], text)
    text = ASSIGNMENT.sub(rf"\1{MARK}", text)
    text = HEADER.sub(rf"\1: {MARK}", text)
    return CREDENTIALS.sub(MARK, text)


def redacted_error(text: str, location: str) -> str:
    """Error of reading `location`, without its secret parts, which servers and commands repeat."""
    if location.startswith("pipe:"):
        parts = re.split(r"[\s'\"=:,;|&<>()@]+", location.removeprefix("pipe:"))
        parts = [part for part in parts if len(part) >= SHORTEST_WORD]
    else:
        address = urlsplit(location)
        parts = [address.password or "", address.query]
        parts += [value for _, value in parse_qsl(address.query)]
        parts += [piece.partition("=")[2] for piece in address.query.split("&")]
    for part in sorted(filter(None, parts), key=len, reverse=True):
        text = text.replace(part, MARK)
    return redacted(text)


def without_secrets(value: Any) -> Any:
    """Copy of JSON values, all strings `redacted`."""
    return _mapped(redacted, value)


def for_record(value: Any) -> Any:
    """Copy of settings for the run folder: `redacted`, with MARK where an address lost a part."""

    def marked(text: str) -> str:
        short = redacted(text)
        is_cut = "://" in text and short != text and MARK not in short
        return f"{short}?{MARK}" if is_cut else short

    return _mapped(marked, value)


def lacks_secret(location: str) -> bool:
    """True for an address or a command whose secret was left out when it was recorded."""
    return MARK in location and ("://" in location or location.startswith("pipe:"))


def shown(text: str) -> str:
    """Text of any origin and number of lines, without secrets and active characters."""
    pieces = re.split(r"([\n\t])", redacted(text).replace("\r\n", "\n"))
    return "".join(one if one in ("\n", "\t") else printable(one) for one in pieces)


def _mapped(change: Any, value: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(change, one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(change, one) for one in value]
    return value


def _pipe_name(location: str) -> str:
    command = location.removeprefix("pipe:").strip()
    program = command.split(maxsplit=1)[0] if command else ""
    shown = program.rpartition("/")[2] if re.fullmatch(r"[\w./+-]{1,80}", program) else ""
    return (
        f"pipe:{shown}{MARK}{hashlib.sha256(location.encode('utf-8', 'replace')).hexdigest()[:8]}"
    )
