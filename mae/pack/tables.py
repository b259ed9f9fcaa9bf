"""Tables of image paths and labels (CSV, TSV, Parquet) as a source of `mae pack`."""

import difflib
import shlex
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from mae.base.errors import UserError
from mae.base.printable import printable
from mae.data.class_names import MAX_LISTED, normal
from mae.decoding.pixels import READ_FORMATS
from mae.pack.class_list import about_spelling
from mae.pack.image_sources import Paths, Sources
from mae.pack.listing import (
    FileReader,
    Listing,
    extension_of,
    fingerprint,
    stat_files,
)
from mae.pack.selection import select
from mae.pack.table_rows import read_table

LABEL_COLUMN = "label"
PATH_NAMES = ("paths", "file", "files", "filename", "filepath", "image", "imagepath", "img", "name")
LABEL_NAMES = ("labels", "class", "classes", "classname", "classid", "category", "target", "y")
"""usual names of the columns of paths and labels, without underscores; these are only suggested"""
NOT_UTF8 = "the table is not in UTF-8: save it as CSV in UTF-8"
LARGEST_LABEL = 2**31 - 1


def list_table(
    table: Path,
    path_column: str = "path",
    label_column: str | None = None,
    labels: bool | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    named: bool = False,
) -> Listing:
    """List the images of a table, in its order; paths are relative to its folder.

    Labels that are all whole numbers are class numbers, unless `named`; other labels are class
    names, numbered in sorted order.
    Raises UserError, one line per fault and at most ten: unknown columns, empty cells, missing
    files, duplicate paths, labels out of range.
    """
    columns, rows, row_numbers = read_table(table, path_column)
    path_at = _column(table, columns, path_column, "--path-column")
    total = len(rows)
    if include or exclude:
        chosen = set(select([row[path_at] for row in rows], include, exclude, str(table)))
        kept = [i for i, row in enumerate(rows) if row[path_at] in chosen]
        rows, row_numbers = [rows[i] for i in kept], [row_numbers[i] for i in kept]
    label_at = _label_column(table, columns, label_column, labels)

    paths = [_spelled_as_on_disk(table.parent, row[path_at]) for row in rows]
    texts = [normal(row[label_at].strip()) for row in rows] if label_at is not None else []
    numbers, classes = _class_numbers(texts, named)
    faults = list(_faults(table, row_numbers, paths, texts, numbers))
    if faults:
        lines = faults[:MAX_LISTED]
        if len(faults) > MAX_LISTED:
            lines.append(f"{table}: and {len(faults) - MAX_LISTED} more faults")
        raise UserError("\n".join(lines))
    if not paths:
        raise UserError(f"{table}: no images: the table has no rows")

    files = stat_files(FileReader(str(table.parent)), paths)
    if not files.paths:
        raise UserError(f"{table}: no images: expected {READ_FORMATS}")
    label_of = dict(zip(paths, numbers, strict=True)) if numbers else {}
    sources = Sources(
        Paths(files.paths), map(extension_of, files.paths), map(label_of.get, files.paths)
    )
    return Listing(
        name=str(table),
        sources=sources,
        reader=FileReader(str(table.parent)),
        sizes=files.sizes,
        fingerprint=fingerprint([files.fingerprint, *classes], sources.label),
        splits=(("train", len(sources)),),
        classes=classes,
        skipped=files.skipped,
        excluded=(("excluded by --include or --exclude", total - len(rows)),),
        notes=tuple(about_spelling(classes)),
    )


def _column(table: Path, columns: Sequence[str], name: str, option: str) -> int:
    """Number of the column called `name`, in any case; UserError where there is none.

    `option` chooses another column.
    """
    if name in columns:
        return columns.index(name)
    alike = [i for i, column in enumerate(columns) if column.casefold() == name.casefold()]
    if len(alike) == 1:
        return alike[0]
    usual = PATH_NAMES if option == "--path-column" else LABEL_NAMES
    near = difflib.get_close_matches(name, columns, 1) or _called(columns, usual)
    hint = f"did you mean {option} {shlex.quote(near[0])}? " if near else ""
    names = ", ".join(map(printable, columns[:MAX_LISTED]))
    names += ", …" if len(columns) > MAX_LISTED else ""
    raise UserError(f"{table}: no column {name}: {hint}{option} names one of {names}")


def _called(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Columns with one of `names`, in any case."""
    return [column for column in columns if column.casefold().replace("_", "") in names]


def _label_column(
    table: Path, columns: Sequence[str], chosen: str | None, labels: bool | None
) -> int | None:
    """Number of the column of labels; None without labels.

    Raises UserError where it is missing, or where another column seems to be meant.
    """
    if labels is False:
        return None
    if labels or chosen or LABEL_COLUMN in map(str.casefold, columns):
        return _column(table, columns, chosen or LABEL_COLUMN, "--label-column")
    near = difflib.get_close_matches(LABEL_COLUMN, map(str.casefold, columns), 1, 0.8)
    if meant := _called(columns, (*near, *LABEL_NAMES)):
        raise UserError(
            f"{table}: no column {LABEL_COLUMN}, but {printable(meant[0])}: --label-column "
            f"{shlex.quote(meant[0])} reads it, --no-labels packs without classes"
        )
    return None


def _class_numbers(texts: Sequence[str], named: bool) -> tuple[list[int], tuple[str, ...]]:
    """Class number of each label, and class names by number where labels are names."""
    try:
        if named:
            raise ValueError
        return [_whole_number(text) for text in texts if text], ()
    except ValueError:
        names = tuple(sorted(set(texts)))
        number = {name: i for i, name in enumerate(names)}
        return [number[text] for text in texts], names


def _whole_number(text: str) -> int:
    """Parse a whole number, also as tables with missing values write it (`3.0`)."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise ValueError(text) from None
        return int(number)


def _spelled_as_on_disk(folder: Path, path: str) -> str:
    """`path`, or a spelling of it that exists: without blanks, Windows', another Unicode form."""
    if not path or Path(folder, path).exists():
        return path
    bare = path.strip()
    forms = [bare, bare.replace("\\", "/")]
    forms += [unicodedata.normalize(form, text) for text in forms for form in ("NFC", "NFD")]
    return next((form for form in forms if form and Path(folder, form).exists()), bare)


def _faults(
    table: Path,
    row_numbers: Sequence[int],
    paths: Sequence[str],
    texts: Sequence[str],
    numbers: Sequence[int],
) -> Iterator[str]:
    """Lines on invalid rows."""
    first_row: dict[str, int] = {}
    complete = len(numbers) == len(texts)  # otherwise an empty label is reported by itself
    for i, path in enumerate(paths):
        where = f"{table}: row {row_numbers[i]}"
        if not path:
            yield f"{where}: no path"
        elif path in first_row:
            yield f"{where}: {printable(path)}: duplicate of row {first_row[path]}"
        elif not Path(table.parent, path).exists():
            hint = "" if _is_utf8(path) else f" ({NOT_UTF8})"
            yield f"{where}: {printable(path)}: no such file in {table.parent}{hint}"
        first_row.setdefault(path, row_numbers[i])
        if texts and not _is_utf8(texts[i]):
            yield f"{where}: label {printable(texts[i])}: {NOT_UTF8}"
        elif texts and not texts[i]:
            yield f"{where}: no label (--no-labels packs without classes)"
        elif complete and numbers and not 0 <= numbers[i] <= LARGEST_LABEL:
            yield f"{where}: label {numbers[i]}: class numbers start at 0"


def _is_utf8(text: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in text)
