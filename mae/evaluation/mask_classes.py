"""Classes of segmentation masks: the meaning of stored values, from a survey of all masks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.decoding.mask_files import COLOUR, GRAY, StoredMask
from mae.evaluation.mask_survey import Group, Survey, listed
from mae.evaluation.mask_table import MOST_CLASSES, MaskTable, stored_name

IGNORE = 255
"""class number of pixels that belong to no class"""

AUTO, BINARY, CLASSES = "auto", "binary", "classes"
NO_VOID = "none"
DEFAULT_VOID = 255
"""stored value of no class in class maps, as in PASCAL VOC and Cityscapes"""

MOST_IN_A_MASK = 64
"""different values in one mask; more are taken for gray levels of a picture"""
DENSE = 32
"""class numbers below this may have gaps"""


class MaskOptions(NamedTuple):
    """Settings of the reading of masks."""

    table: MaskTable | None = None
    reading: str = AUTO
    """AUTO, BINARY or CLASSES"""
    void: int | str | None = None
    """stored value of no class; NO_VOID: there is none; None: 255 in class maps"""


class MaskClasses(NamedTuple):
    """Classes of masks: 0 to n - 1 for use here, with their numbers and names in reports."""

    reading: str
    """BINARY or CLASSES"""
    numbers: list[int]
    """number of each class in reports: of class maps without a table the stored value"""
    names: list[str]
    luts: dict[int, npt.NDArray[np.uint8]]
    """largest value of the kind → table of stored value → class, or IGNORE"""
    about: str
    """reading of the masks, in words"""
    void: int | None = None
    """stored value of no class"""

    def of(self, mask: StoredMask) -> npt.NDArray[np.uint8]:
        """Classes [h w] of a mask, IGNORE where there is none."""
        return self.luts[mask.top][mask.values]

    def background(self) -> int:
        """Class of the stored value 0; UserError where that is void or has none."""
        found = {int(lut[0]) for lut in self.luts.values()}
        if found & {IGNORE}:
            raise UserError("--unmasked background: the value 0 of the masks has no class")
        return found.pop()

    def seen(self, survey: Survey, key: str) -> list[int]:
        """Classes that occur in the masks of the data `key`, ascending."""
        found = {int(self.luts[top][value]) for top, value in survey.seen.get(key, ())}
        return sorted(found - {IGNORE})


def mask_classes(survey: Survey, options: MaskOptions) -> MaskClasses:
    """Classes of the masks of a survey.

    Binary masks: a value of at least half of the largest possible one is class 1.  They are
    recognised by having hardly any values but the smallest and the largest possible one.  Else
    class maps, whose values are the classes, or those of the table.  UserError, naming the values
    and the remedy, for anything else.
    """
    groups = list(survey.groups.values())
    if options.reading == BINARY or (options.reading == AUTO and are_binary(groups, options)):
        return _binary(groups, options.table, options.void)
    if lossy := next((group for group in groups if group.lossy), None):
        raise UserError(
            f"{lossy.lossy}: the mask is lossy (JPEG), so its values are not those that were drawn "
            f"({lossy.described()}): store PNG, or give --masks binary for a threshold"
        )
    if len(groups) > 1:
        raise UserError(
            f"masks of several kinds: {groups[0].described()} in {groups[0].name}; "
            f"{groups[1].described()} in {groups[1].name}: store all alike"
        )
    return _of_table(groups[0], options) if options.table else _class_maps(groups[0], options)


def are_binary(groups: Sequence[Group], options: MaskOptions) -> bool:
    """True where all masks have two values, or two with gray edges between them.

    Edges: no more pixels than have the largest possible value, and at least one of three quarters
    of it; the numbers of class maps do not go up so far.  Of lossy masks an eighth at both ends
    counts as the end.
    """
    ends = [{0, group.top} for group in groups]
    if isinstance(options.void, int) or (
        options.table is not None
        and set(options.table.classes) != {0, max(group.top for group in groups)}
    ):
        return False
    with_foreground = 0
    for group, end in zip(groups, ends, strict=True):
        values, pixels = group.arrays()
        slack = group.top // 8 if group.lossy else 0
        high, between = values >= group.top - slack, (values > slack) & (values < group.top - slack)
        with_foreground += bool(high.any())
        if group.kind != GRAY and set(group.pixels) != end:
            return False
        if not between.any():
            if not high.any() and (group.lossy or set(group.pixels) != {0}):
                return False
            continue
        goes_up = group.lossy or (group.top >= 255 and values[between].max() >= 0.75 * group.top)
        if not goes_up or pixels[between].sum() > pixels[high].sum():
            return False
    return with_foreground > 0


def _binary(
    groups: Sequence[Group], table: MaskTable | None, void: int | str | None
) -> MaskClasses:
    if isinstance(void, int):
        raise UserError(f"--void {void}: binary masks have no void; with it, --masks classes")
    names, luts, between, total = ["background", "foreground"], {}, 0, 0
    if table:
        low, high = sorted(table.classes)[0], sorted(table.classes)[-1]
        places = [table.classes[low], table.classes[high]]
        if table.of_colours or places not in ([0, 1], [1, 0]) or len(table.classes) != 2:
            raise UserError(f"{table.path}: --masks binary needs two values, smallest and largest")
        names = [table.names[place] for place in places if place is not None]
    for group in groups:
        if group.kind != GRAY and set(group.pixels) - {0, group.top}:
            raise UserError(
                f"{group.name}: --masks binary needs gray levels, not {group.described()}"
            )
        luts[group.top] = (np.arange(group.top + 1) * 2 > group.top).astype(np.uint8)
        values, pixels = group.arrays()
        between += int(pixels[(values > 0) & (values < group.top)].sum())
        total += int(pixels.sum())
    threshold = "half of the largest value" if len(groups) > 1 else str(groups[0].top // 2 + 1)
    about = f"binary masks, {names[1]} from {threshold} up"
    if between:
        about += f" ({between / total:.2%} of the pixels are between the two values)"
    return MaskClasses(BINARY, [0, 1], names, luts, about)


def _class_maps(group: Group, options: MaskOptions) -> MaskClasses:
    values, pixels = group.arrays()
    void = DEFAULT_VOID if options.void is None else options.void
    classes = [value for value in values.tolist() if value != void]
    below = [value for value in classes if value < group.top]
    has_gaps = bool(below) and below[-1] >= max(DENSE, 4 * len(below))
    is_open = options.void is None and options.reading == AUTO and group.kind == GRAY
    remedy = "--palette FILE with name,value, --masks binary (a threshold) or --masks classes"
    if group.kind == GRAY and options.reading == AUTO and group.most > MOST_IN_A_MASK:
        raise UserError(
            f"{group.fullest}: {group.most} gray levels in one mask ({group.described()}): neither "
            f"two values nor class numbers; give {remedy}"
        )
    if is_open and group.top in group.pixels and (has_gaps or group.top > DEFAULT_VOID):
        raise UserError(
            f"{group.name}: masks of {group.described()}: class numbers have no such gaps, and "
            f"{group.top} may be void or a class; give --void {group.top}, --void none or {remedy}"
        )
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"{group.fullest}: masks of {len(classes):,} values ({group.described()}), more than "
            f"{MOST_CLASSES} classes; give the values' classes, --palette FILE with name,value"
        )
    lut = np.full(group.top + 1, IGNORE, np.uint8)
    lut[classes] = np.arange(len(classes))
    about = f"class maps of {group.kind}, classes: {len(classes)}"
    if void in group.pixels:
        share = group.pixels[void] / pixels.sum()
        about += f"; {void} is void, {share:.2%} of the pixels"
    return MaskClasses(
        reading=CLASSES,
        numbers=classes,
        names=[str(number) for number in classes],
        luts={group.top: lut},
        about=about,
        void=void if isinstance(void, int) else None,
    )


def _of_table(group: Group, options: MaskOptions) -> MaskClasses:
    table, is_colour = options.table, group.kind == COLOUR
    assert table is not None
    if table.of_colours and isinstance(options.void, int):
        raise UserError(f"--void {options.void}: {table.path} has colours: name one of them void")
    if unknown := sorted(group.pixels.keys() - table.classes.keys()):
        shown = listed(stored_name(value, is_colour) for value in unknown)
        raise UserError(f"{table.path}: --palette has no line for values of the masks: {shown}")
    lut = np.full(group.top + 1, IGNORE, np.uint8)
    for value, number in table.classes.items():
        if number is not None and value <= group.top and value != options.void:
            lut[value] = number
    about = f"class maps of {group.kind}, {len(table.names)} classes of {table.path.name}"
    void = sum(pixels for value, pixels in group.pixels.items() if lut[value] == IGNORE)
    if void:
        about += f"; void: {void / sum(group.pixels.values()):.2%} of the pixels"
    return MaskClasses(CLASSES, list(range(len(table.names))), table.names, {group.top: lut}, about)
