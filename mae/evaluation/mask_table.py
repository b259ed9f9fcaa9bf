"""Table of the classes in segmentation masks: columns `name,r,g,b` or `name,value`."""

from pathlib import Path
from typing import NamedTuple

from mae.base.errors import UserError
from mae.base.printable import printable
from mae.pack.table_rows import read_table

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


def read_mask_table(path: Path) -> MaskTable:
    """Read a table with a header; rows of one name are one class, the name `void` is no class.

    UserError, naming file and row, for other columns, values out of range or given twice, and
    fewer than two or more than 255 classes.
    """
    try:
        columns, rows, row_numbers = read_table(path, "name")
    except UserError as error:
        raise UserError(f"--palette: {error}") from None
    columns = [column.lower() for column in columns]
    wanted = next((one for one in COLUMNS if sorted(one) == sorted(filter(None, columns))), None)
    if wanted is None:
        raise UserError(
            f"--palette: {path}: the first line must be name,r,g,b or name,value, not "
            f"{printable(','.join(columns)[:60])}"
        )
    of_colours = len(wanted) == 4
    names: list[str] = []
    classes: dict[int, int | None] = {}
    for number, row in zip(row_numbers, rows, strict=True):
        if not any(cell.strip() for cell in row):
            continue
        cells = [row[columns.index(column)] for column in wanted]
        name, value = _parse(cells, of_colours, f"--palette: {path}, row {number}")
        if value in classes:
            shown = stored_name(value, of_colours)
            raise UserError(f"--palette: {path}, row {number}: {shown} has a class already")
        if name != VOID and name not in names:
            names.append(name)
        classes[value] = None if name == VOID else names.index(name)
    if not 2 <= len(names) <= MOST_CLASSES:
        raise UserError(f"--palette: {path}: {len(names)} classes; 2 to {MOST_CLASSES} are needed")
    return MaskTable(path, of_colours, names, classes)


def _parse(cells: list[str], of_colours: bool, place: str) -> tuple[str, int]:
    """Name and stored value of a row, whose cells are in the order of COLUMNS."""
    name, *values = (cell.strip() for cell in cells)
    largest, width = (255, 3) if of_colours else (65_535, 1)
    try:
        numbers = [int(value) for value in values]
    except ValueError:
        numbers = []
    if not name or len(numbers) != width or not all(0 <= n <= largest for n in numbers):
        raise UserError(f"{place}: needs a name and {width} whole numbers from 0 to {largest:,}")
    value = numbers[0] << 16 | numbers[1] << 8 | numbers[2] if of_colours else numbers[0]
    return name, value


def stored_name(value: int, is_colour: bool) -> str:
    """Stored value as a table writes it: `255,0,0` or `3`."""
    return f"{value >> 16},{value >> 8 & 255},{value & 255}" if is_colour else str(value)
