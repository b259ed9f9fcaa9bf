"""torchvision's data sets as a source of `mae pack`: `torchvision:NAME`.

Files that a data set keeps on disk are taken as they are; its other images become PNG.
"""

import difflib
import inspect
import io
import operator
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torchvision import datasets
from torchvision.datasets import VisionDataset

from mae.base.errors import UserError
from mae.decoding.pixels import EXTENSIONS, BadImage
from mae.pack.sources import (
    PREFIX,
    UNKNOWN,
    FileReader,
    Listing,
    Source,
    extension_of,
    stamp,
)

BASES = {"VisionDataset", "DatasetFolder"}


class Part(NamedTuple):
    """One split of a data set, by the argument that torchvision's class takes for it."""

    name: str
    root: str
    argument: tuple[tuple[str, object], ...]


def find_dataset(name: str, root: Path, labels: bool | None = None) -> Listing:
    """All images of torchvision's data set `name`, downloaded to `root` where it can be.

    Its own training, validation and test parts become splits of those names.
    Raises UserError for a wrong name, what cannot be had, and data sets that are no images with
    at most one class each.
    """
    known = [known for known in datasets.__all__ if _is_dataset(known)]
    if name not in known:
        near = difflib.get_close_matches(name, known, 1) or [
            other for other in known if other.lower() == name.lower()
        ]
        hint = f"did you mean {near[0]}?" if near else "see torchvision.datasets"
        raise UserError(f"{PREFIX}{name}: no such data set, {hint}")
    sources: list[Source] = []
    splits: list[tuple[str, int]] = []
    classes: Sequence[str] = ()
    for split, argument in _parts(getattr(datasets, name)):
        part = Part(name, str(root), argument)
        dataset = _open(part)
        if dataset is None:
            continue
        classes = _class_names(dataset)
        found = _list(part, dataset)
        if labels is False:
            found = [source._replace(label=None) for source in found]
        elif labels and any(source.label is None for source in found):
            raise UserError(f"{PREFIX}{name}: its {split} images have no class numbers")
        sources += found
        splits.append((split, len(found)))
    numbers = [UNKNOWN if source.label is None else source.label for source in sources]
    reader = DatasetReader(str(root))
    named = labels is not False and max(numbers, default=UNKNOWN) < len(classes)
    return Listing(
        name=PREFIX + name,
        sources=sources,
        reader=reader,
        sizes=np.full(len(sources), UNKNOWN, np.int64),
        stamp=stamp([name, str(root), *map(str, splits)], np.array(numbers, np.int64)),
        splits=tuple(splits),
        classes=tuple(classes) if named and numbers and max(numbers) >= 0 else (),
    )


class DatasetReader(NamedTuple):
    """Reads (part, number) through torchvision, and paths from disk."""

    root: str

    def read(self, reference: tuple[Part, int] | str) -> bytes:
        """The file on disk, or the image as PNG."""
        if isinstance(reference, str):
            return FileReader("").read(reference)
        part, number = reference
        dataset = _open(part)
        assert dataset is not None
        image = dataset[number][0]
        if not isinstance(image, Image.Image):
            raise BadImage(f"torchvision gives a {type(image).__name__}, no image")
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    def name(self, reference: tuple[Part, int] | str) -> str:
        """The path on disk, or the part and the number in it."""
        if isinstance(reference, str):
            return reference
        part, number = reference
        arguments = " ".join(f"{key}={value}" for key, value in part.argument)
        return f"{part.name} {arguments} {number}".replace("  ", " ")


def _is_dataset(name: str) -> bool:
    value = getattr(datasets, name)
    return inspect.isclass(value) and issubclass(value, VisionDataset) and name not in BASES


def _parts(cls: type) -> list[tuple[str, tuple[tuple[str, object], ...]]]:
    """(split, argument) of the parts that `cls` may have; which of them it has, it tells itself."""
    parameters = _parameters(cls)
    if "train" in parameters:
        return [("train", (("train", True),)), ("test", (("train", False),))]
    if "split" in parameters:
        first = parameters["split"].default
        if first not in ("train", "trainval", "train-standard"):
            raise UserError(f"{PREFIX}{cls.__name__}: has no part that is known to be for training")
        held_out = ("test",) if first == "trainval" else ("val", "valid", "test")
        names = {"valid": "val"}
        parts = [(names.get(name, name), (("split", name),)) for name in held_out]
        return [("train", (("split", first),)), *parts]
    return [("train", ())]


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Of the constructor, and of the base classes' that its keywords go on to."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            own = inspect.signature(vars(base)["__init__"]).parameters
            found = {**own, **found}
            if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in own.values()):
                break
    return found


@lru_cache(maxsize=4)
def _open(part: Part) -> Any:
    """The data set, or None where it has no such part.  Kept: workers inherit or open it once."""
    cls = getattr(datasets, part.name)
    parameters = _parameters(cls)
    arguments: dict[str, Any] = dict(part.argument)
    if "root" in parameters:
        arguments["root"] = part.root
    if "download" in parameters:
        arguments["download"] = True
    try:
        return cls(**arguments)
    except ValueError as error:
        if "for argument split" in str(error):
            return None
        raise _cannot_be_had(part, error) from None
    except TypeError as error:
        missing = str(error).partition(") ")[2] or str(error)
        raise UserError(
            f"{PREFIX}{part.name}: cannot be packed by its name alone: {missing}"
        ) from None
    except (OSError, RuntimeError, ImportError, LookupError) as error:
        raise _cannot_be_had(part, error) from None


def _cannot_be_had(part: Part, error: Exception) -> UserError:
    """Torchvision's reason, of which the last line is the most exact."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
    return UserError(f"{PREFIX}{part.name}: cannot be had in {part.root}: {reason}")


def _list(part: Part, dataset: Any) -> list[Source]:
    count = len(dataset)
    for attribute in ("samples", "_samples", "imgs"):
        pairs = getattr(dataset, attribute, None)
        if isinstance(pairs, list) and len(pairs) == count and _are_files(pairs):
            return [_file(path, label) for path, label in pairs]
    files, numbers = getattr(dataset, "_image_files", None), getattr(dataset, "_labels", None)
    if files and numbers is not None and len(files) == len(numbers) == count:
        pairs = list(zip(files, numbers, strict=True))
        if _are_files(pairs):
            return [_file(path, label) for path, label in pairs]
    labels = next(
        (
            found
            for name in ("targets", "labels")
            if (found := getattr(dataset, name, None)) is not None and len(found) == count
        ),
        None,
    )
    if labels is None:  # nothing but the images themselves knows them
        labels = [dataset[number][1] for number in range(count)]
    return [Source((part, i), "png", _class_number(label)) for i, label in enumerate(labels)]


def _are_files(pairs: list) -> bool:
    return all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and isinstance(pair[0], str | Path)
        and extension_of(str(pair[0])) in EXTENSIONS
        for pair in pairs
    )


def _file(path: str | Path, label: object) -> Source:
    return Source(str(path), extension_of(str(path)), _class_number(label))


def _class_number(label: Any) -> int | None:
    """None for boxes, attributes, captions, and the -1 of unlabelled images."""
    try:
        number = operator.index(label)
    except (TypeError, ValueError, RuntimeError):
        return None
    return number if number >= 0 else None


def _class_names(dataset: Any) -> tuple[str, ...]:
    names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return ()
