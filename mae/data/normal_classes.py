"""Normal images of a labelled set: those of the classes whose names say so, or of class 0.

A class number alone says nothing: `mae pack` numbers folders by their names, and `abnormal` comes
before `normal`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.data.class_names import Names, quoted
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest

NORMAL_NAMES = ("good", "normal", "ok")
"""names of classes, and of folders, of normal images"""


class NormalClasses(NamedTuple):
    """Classes of a data set whose images are normal; those of all others are anomalous."""

    numbers: tuple[int, ...] = (0,)
    names: Names = ()
    """names of all classes, by number; none: unknown"""
    is_named: bool = False
    """a name says that these are normal; otherwise class 0 is taken"""

    def of(self, labels: npt.NDArray) -> npt.NDArray[np.bool_]:
        """Truth value for each image: True where its label is that of a normal class."""
        return np.isin(labels, self.numbers)

    def name(self, label: int) -> str:
        """Name of a class, for people."""
        return self.names[label] if label < len(self.names) else f"class {label}"

    def __str__(self) -> str:
        """The normal classes, by name."""
        known = [self.name(number) for number in self.numbers]
        return quoted(known) if self.names else ", ".join(known)

    def line(self) -> str:
        """Line for the user: which classes are taken for normal, and why."""
        if self.is_named:
            return f"normal images: of {self}; all others are anomalous"
        if not self.names:
            return "normal images: of class 0 (its classes have no names); all others are anomalous"
        called = ", ".join(NORMAL_NAMES)
        return (
            f"normal images: of {self}, which is class 0, as no class is called {called} "
            "(--normal-class NAME for another); all others are anomalous"
        )


CLASS_0 = NormalClasses()
"""normal images of a data set whose classes have no names"""


def normal_classes(manifest: Manifest, chosen: Sequence[str], key: str) -> NormalClasses:
    """Normal classes of a data set: the `chosen` ones, those of NORMAL_NAMES, or class 0.

    Images without labels have no classes.  Raises UserError, naming `key`, where labels have no
    class of a chosen name.
    """
    names = tuple(manifest.class_names)
    if not (np.asarray(manifest.label) != NO_LABEL).any():
        return CLASS_0
    wanted = {one.lower() for one in chosen or NORMAL_NAMES}
    found = tuple(number for number, name in enumerate(names) if name.lower() in wanted)
    if chosen and not found:
        known = f"its classes are {quoted(names)}" if names else "its classes have no names"
        raise UserError(f"{key}: --normal-class: no class is called {quoted(chosen)}; {known}")
    return NormalClasses(found, names, True) if found else NormalClasses(names=names)
