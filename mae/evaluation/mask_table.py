"""Table of the classes in segmentation masks: `name,r,g,b` or `name,value`, one line each."""

import csv
from pathlib import Path
from typing import NamedTuple

from mae.base.errors import UserError

VOID = "void"
"""name of pixels that belong to no class"""

COLUMNS = (["name", "r", "g", "b"], ["name", "value"])

MOST_CLASSES = 255


class MaskTable(NamedTuple):
    """Classes by what masks store."""

    path: Path
    of_colours: bool
    """keys are colours, red · 65,536 + green · 256 + blue; else gray levels or palette indices"""
    names: list[str]
    """names of the classes, in the order of the file"""
    classes: dict[int, int | None]
    """stored value → number of its class in `names`; None: void"""


def read_table(path: Path) -> MaskTable:
    """Read a table with a header; lines of one name are one class, the name `void` is no class.

    UserError, naming file and line, for other columns, values out of range or given twice, and
    fewer than two or more than 255 classes.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file, skipinitialspace=True, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--palette: {path}: cannot be read: {error}") from None
    header = [column.strip().lower() for column in lines[0]] if lines else []
    if header not in COLUMNS:
        raise UserError(
            f"--palette: {path}: the first line must be name,r,g,b or name,value, not "
            f"{','.join(header)[:60] or 'empty'}"
        )
    of_colours = len(header) == 4
    names: list[str] = []
    classes: dict[int, int | None] = {}
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        name, value = _parse(line, of_colours, f"--palette: {path}, line {number}")
        if value in classes:
            shown = stored_name(value, of_colours)
            raise UserError(f"--palette: {path}, line {number}: {shown} has a class already")
        if name != VOID and name not in names:
            names.append(name)
        classes[value] = None if name == VOID else names.index(name)
    if not 2 <= len(names) <= MOST_CLASSES:
        raise UserError(f"--palette: {path}: {len(names)} classes; 2 to {MOST_CLASSES} are needed")
    return MaskTable(path, of_colours, names, classes)


def _parse(line: list[str], of_colours: bool, place: str) -> tuple[str, int]:
    """Name and stored value of a line."""
    name, *cells = (cell.strip() for cell in line)
    largest, width = (255, 3) if of_colours else (65_535, 1)
    try:
        numbers = [int(cell) for cell in cells]
    except ValueError:
        numbers = []
    if not name or len(numbers) != width or not all(0 <= n <= largest for n in numbers):
        raise UserError(f"{place}: needs a name and {width} whole numbers from 0 to {largest:,}")
    value = numbers[0] << 16 | numbers[1] << 8 | numbers[2] if of_colours else numbers[0]
    return name, value


def stored_name(value: int, is_colour: bool) -> str:
    """Stored value as a table writes it: `255,0,0` or `3`."""
    return f"{value >> 16},{value >> 8 & 255},{value & 255}" if is_colour else str(value)
