"""torchvision's data sets as a source of `mae pack`: `torchvision:NAME`.

Image files that a data set keeps on disk are packed unchanged; its other images become PNG.
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
from mae.data.labels import NO_LABEL
from mae.decoding.pixels import EXTENSIONS, BadImage
from mae.pack.image_sources import Source, Sources
from mae.pack.listing import (
    DATASET_PREFIX,
    UNKNOWN_SIZE,
    FileReader,
    Listing,
    extension_of,
    fingerprint,
)

BASE_CLASSES = {"VisionDataset", "DatasetFolder"}


class DatasetSplit(NamedTuple):
    """One split of a data set."""

    name: str
    """torchvision's name of the data set"""
    root: str
    """torchvision's data folder"""
    argument: tuple[tuple[str, object], ...]
    """(keyword, value) that selects the split in the class's constructor; empty: it has only one"""


def list_dataset(name: str, root: Path, labels: bool | None = None) -> Listing:
    """List all images of torchvision's data set `name`, downloaded to `root` where torchvision can.

    Its training, validation and test sets become splits of those names.
    Raises UserError for an unknown name, a data set that cannot be loaded, one without a known
    training split, and with `labels=True` for images without a class number.
    """
    known = [known for known in datasets.__all__ if _is_dataset(known)]
    if name not in known:
        near = [other for other in known if other.lower() == name.lower()]
        near += difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "see torchvision.datasets"
        raise UserError(f"{DATASET_PREFIX}{name}: no such data set, {hint}")
    sources: list[Source] = []
    splits: list[tuple[str, int]] = []
    classes: Sequence[str] = ()
    for split, argument in _split_arguments(getattr(datasets, name)):
        part = DatasetSplit(name, str(root), argument)
        dataset = _load_split(part)
        if dataset is None:
            continue
        classes = _class_names(dataset)
        found = _list_split(part, dataset)
        if labels is False:
            found = [source._replace(label=None) for source in found]
        elif labels and any(source.label is None for source in found):
            raise UserError(f"{DATASET_PREFIX}{name}: its {split} images have no class numbers")
        sources += found
        splits.append((split, len(found)))
    references, extensions, numbers, _ = zip(*sources, strict=True) if sources else ((),) * 4
    listed = Sources(references, extensions, numbers)
    largest = int(listed.label.max(initial=NO_LABEL))
    reader = DatasetReader(str(root))
    named = labels is not False and largest < len(classes)
    return Listing(
        name=DATASET_PREFIX + name,
        sources=listed,
        reader=reader,
        sizes=np.full(len(sources), UNKNOWN_SIZE, np.int64),
        fingerprint=fingerprint([name, str(root), *map(str, splits)], listed.label),
        splits=tuple(splits),
        classes=tuple(classes) if named and largest >= 0 else (),
    )


class DatasetReader(NamedTuple):
    """Reader of (split, number) through torchvision, and of paths from disk."""

    root: str

    def read(self, reference: tuple[DatasetSplit, int] | str) -> bytes:
        """Bytes of the file on disk, or the image encoded as PNG.

        Raises BadImage where the sample is no image.
        """
        if isinstance(reference, str):
            return FileReader("").read(reference)
        part, number = reference
        dataset = _load_split(part)
        assert dataset is not None
        image = dataset[number][0]
        if not isinstance(image, Image.Image):
            raise BadImage(f"torchvision returns a {type(image).__name__}, no image")
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    def name(self, reference: tuple[DatasetSplit, int] | str) -> str:
        """Path on disk, or the split and the number in it."""
        if isinstance(reference, str):
            return reference
        part, number = reference
        arguments = " ".join(f"{key}={value}" for key, value in part.argument)
        return f"{part.name} {arguments} {number}".replace("  ", " ")


def _is_dataset(name: str) -> bool:
    value = getattr(datasets, name)
    return inspect.isclass(value) and issubclass(value, VisionDataset) and name not in BASE_CLASSES


def _split_arguments(cls: type) -> list[tuple[str, tuple[tuple[str, object], ...]]]:
    """(split, argument) of the splits that `cls` may have; its constructor rejects the others."""
    parameters = _parameters(cls)
    if "train" in parameters:
        return [("train", (("train", True),)), ("test", (("train", False),))]
    if "split" in parameters:
        first = parameters["split"].default
        if first not in ("train", "trainval", "train-standard"):
            raise UserError(f"{DATASET_PREFIX}{cls.__name__}: has no known training split")
        held_out = ("test",) if first == "trainval" else ("val", "valid", "test")
        names = {"valid": "val"}
        parts = [(names.get(name, name), (("split", name),)) for name in held_out]
        return [("train", (("split", first),)), *parts]
    return [("train", ())]


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Parameters of the constructor, and of base classes' that receive its `**keywords`."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            own = inspect.signature(vars(base)["__init__"]).parameters
            found = {**own, **found}
            if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in own.values()):
                break
    return found


@lru_cache(maxsize=4)
def _load_split(part: DatasetSplit) -> Any:
    """Load a split, or None where the data set does not have it.

    Cached: worker processes inherit it, or load it once.
    """
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
        raise _unavailable(part, error) from None
    except TypeError as error:
        missing = str(error).partition(") ")[2] or str(error)
        raise UserError(
            f"{DATASET_PREFIX}{part.name}: cannot be packed by its name alone: {missing}"
        ) from None
    except (OSError, RuntimeError, ImportError, LookupError) as error:
        raise _unavailable(part, error) from None


def _unavailable(part: DatasetSplit, error: Exception) -> UserError:
    """UserError with the first and the last line of torchvision's reason, the most precise."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
    return UserError(f"{DATASET_PREFIX}{part.name}: cannot be loaded from {part.root}: {reason}")


def _list_split(part: DatasetSplit, dataset: Any) -> list[Source]:
    """List a split's images, as files where the data set keeps (path, label) pairs."""
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
    if labels is None:  # only the samples themselves hold them
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
    """Class number, or None for boxes, attributes, captions and the -1 of unlabelled images."""
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
