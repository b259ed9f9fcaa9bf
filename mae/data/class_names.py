"""Class names: `classes.txt` beside shards, and its copy in the folder of a run.

A name a line, in the order of the class numbers.
"""

import shlex
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mae.base.errors import UserError
from mae.base.files import new_file
from mae.base.printable import printable
from mae.base.redaction import redacted
from mae.storage.remote import is_remote, read_if_present

FILE = "classes.txt"
"""file beside the shards with one class name a line; `mae pack` writes it"""
ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
"""characters that would end a field or a line"""
ENCODING = ("utf-8", "surrogateescape")
"""keeps the bytes of file names that are not UTF-8"""
MAX_LISTED = 10
"""maximum number of examples (names, files, faults) that one message or report lists"""
Names = tuple[str, ...]


class Classes(NamedTuple):
    """Classes of a model, in the order of its logits."""

    count: int
    names: Names = ()
    """names of the classes from 0 on; empty: unknown"""

    def shown(self) -> list[str]:
        """A name for each class; its number where it has none."""
        return [*self.names, *map(str, range(len(self.names), self.count))]


def run_classes(shards: Sequence[str], num_classes: int, run: Path) -> Classes:
    """Classes of the model in the folder `run`, which was trained on `shards`.

    Names are read from the run folder; earlier versions left some beside the shards only.
    """
    if names := read_names(str(run / FILE)):
        return Classes(num_classes, names[:num_classes])
    local = [shard for shard in shards[:1] if not is_remote(shard)]
    names = next((read_names(beside(shard)) for shard in local), ())
    return Classes(num_classes, names if len(names) == num_classes else ())


def check_kept_names(names: Names, run: Path, key: str) -> None:
    """Raise UserError where the folder of a run has other class names than `names`, if any."""
    kept = read_names(str(run / FILE))
    if kept and names and kept != names:
        raise UserError(
            f"{key}: its classes ({quoted(names)}) are not those that {run} was started with "
            f"({quoted(kept)}): restore {key}, or choose another output for a new run"
        )


def write_class_names(names: Sequence[str], folder: Path) -> None:
    """Write `folder`/classes.txt, unless it is there or there are no names.

    Raises UserError where it cannot be written.
    """
    if names and not (folder / FILE).exists():
        with new_file(folder / FILE) as part:
            part.write_bytes("".join(f"{escaped(name)}\n" for name in names).encode(*ENCODING))


def class_lines(data: bytes, where: str) -> Names:
    """Class names from the bytes of a text file; UserError, naming `where`, for other content."""
    if b"\0" in data:
        raise UserError(f"{where}: is not text in UTF-8")
    lines = data.removeprefix(b"\xef\xbb\xbf").decode(*ENCODING).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(normal(unescaped(line.removesuffix("\r"))) for line in lines)


def escaped(name: str) -> str:
    """File or class name as a field of a text file: backslashes, tabs and line ends escaped."""
    return name.translate(str.maketrans(ESCAPES))


def unescaped(field: str) -> str:
    """Name that `escaped` wrote as `field`; other backslashes are kept."""
    letters = {code[1]: letter for letter, code in ESCAPES.items()}
    name, rest = "", field
    while rest:
        code = letters.get(rest[1:2]) if rest[0] == "\\" else None
        name += code or rest[0]
        rest = rest[2 if code else 1 :]
    return name


def normal(name: str) -> str:
    """`name` in one Unicode spelling (NFC): macOS stores an accent as a letter of its own."""
    return unicodedata.normalize("NFC", name)


def class_numbers(file: str) -> dict[str, int]:
    """Class name → number from a file of names; a name that it lists twice has none."""
    names: list[str] = []
    with suppress(UserError):  # a set without labels may have any file of that name
        names = [printable(name.strip()) for name in read_names(file)]
    times = Counter(names)
    return {name: number for number, name in enumerate(names) if name and times[name] == 1}


def quoted(names: Sequence[str]) -> str:
    """The first ten names, quoted where needed, for a message."""
    shown = ", ".join(shlex.quote(printable(name)) for name in names[:MAX_LISTED])
    return shown + (f", … ({len(names):,} in all)" if len(names) > MAX_LISTED else "")


def count_classes(names: Sequence[str]) -> str:
    """`3 classes are`, for a message."""
    return "1 class is" if len(names) == 1 else f"{len(names):,} classes are"


def beside(shard: str, with_query: bool = True) -> str:
    """Path or address of classes.txt beside a shard; "" where a command makes the shard."""
    if shard.startswith("pipe:"):
        return ""
    if not is_remote(shard):
        return str(Path(shard).parent / FILE)
    address, question, query = shard.partition("?")
    return f"{address.rpartition('/')[0]}/{FILE}{f'{question}{query}' if with_query else ''}"


def read_names(file: str) -> Names:
    """Class names in the file at a path or address; none where it is absent."""
    if is_remote(file):
        return class_lines(read_if_present(file) or b"", redacted(file))
    try:
        if not Path(file).is_file():  # reading a FIFO would wait forever
            return ()
        return class_lines(Path(file).read_bytes(), file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
