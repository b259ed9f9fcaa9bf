"""Class names of `mae pack --classes`: read from a file, applied to a listing."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mae.base.errors import UserError
from mae.base.files import require_regular
from mae.data.class_names import FILE, class_lines, normal, quoted
from mae.data.labels import NO_LABEL
from mae.pack.listing import Listing, fingerprint


def read_class_list(source: Path) -> tuple[str, ...]:
    """Class names by class number from a text file (a name a line), a `pack.json`, or its folder.

    Raises UserError where there are none, a line is empty, or a name occurs twice.
    """
    file = source / FILE if source.is_dir() else source
    if file.exists():
        require_regular(file)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        hint = " (packed without class names?)" if file != source else ""
        raise UserError(f"--classes: {file}: no such file{hint}") from None
    except OSError as error:
        raise UserError(f"--classes: {file}: cannot be read: {error.strerror}") from None
    is_json = file.suffix.lower() == ".json"
    names = _from_json(file, data) if is_json else class_lines(data, f"--classes: {file}")
    first_line: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if not name.strip():
            raise UserError(f"--classes: {file}: line {line} is empty: one class name a line")
        if name in first_line:
            where = f"line {line} repeats line {first_line[name]}"
            raise UserError(f"--classes: {file}: {where}: {quoted([name])}")
        first_line[name] = line
    if not names:
        raise UserError(f"--classes: {file}: names no class: one class name a line is expected")
    return names


def _from_json(file: Path, data: bytes) -> tuple[str, ...]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise UserError(f"--classes: {file}: is not JSON") from None
    names = content.get("classes") if isinstance(content, dict) else content
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'--classes: {file}: has no list "classes" of names, as pack.json has')
    return tuple(map(normal, names))


def apply_class_list(listing: Listing, names: Sequence[str], source: Path) -> Listing:
    """`listing` with the class numbers of `names`, read from `source`.

    Class names are looked up; class numbers without names are positions in `names` already.
    Raises UserError where a label is none of `names`.
    """
    label = listing.sources.label
    if (largest := int(label.max(initial=NO_LABEL))) == NO_LABEL:
        raise UserError(f"--classes: {listing.name} has no labels")
    used = set(np.unique(label).tolist())
    where = f"--classes: {listing.name}: "
    if listing.classes:
        number_of = {name: number for number, name in enumerate(names)}
        numbers = [number_of.get(normal(name)) for name in listing.classes]
        unknown = [
            name
            for old, (name, new) in enumerate(zip(listing.classes, numbers, strict=True))
            if new is None and old in used
        ]
        if unknown:
            raise UserError(
                f"{where}{_count(unknown)} not in {source}: {quoted(unknown)}; {source} has "
                f"{quoted(names)}: rename or leave out (--exclude) what is misnamed, or pack both "
                "sets with a list of all classes"
            )
    else:
        numbers = list(range(len(names)))
        if largest >= len(names):
            raise UserError(
                f"{where}class number {largest}, but {source} has {len(names)} classes, numbered "
                f"from 0: {quoted(names)}"
            )
    new_of = np.array([NO_LABEL if new is None else new for new in numbers] + [NO_LABEL])
    new = new_of[label]  # the last one, NO_LABEL, for NO_LABEL
    return listing._replace(
        sources=listing.sources.with_labels(new),
        classes=tuple(names),
        fingerprint=fingerprint(
            [listing.fingerprint, *names],
            new,
        ),
    )


def about_spelling(names: Sequence[str]) -> list[str]:
    """Note on class names that may have been meant as one."""
    alike = Counter(name.strip().casefold() for name in names)
    several = [name for name in names if alike[name.strip().casefold()] > 1]
    return [f"classes that differ in case or blanks only: {quoted(several)}"] if several else []


def _count(names: Sequence[str]) -> str:
    return "1 class is" if len(names) == 1 else f"{len(names):,} classes are"
