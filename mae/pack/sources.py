"""Listing of what `mae pack` was given: a folder, a table, a data set or tars."""

import difflib
import shlex
from collections.abc import Sequence
from pathlib import Path

from mae.base.errors import UserError
from mae.base.portion import ALONE, Portion
from mae.base.printable import printable
from mae.base.redaction import redacted
from mae.data.shards import with_home
from mae.decoding.pixels import EXTENSIONS
from mae.pack.class_list import apply_class_list, read_class_list
from mae.pack.folders import list_folder
from mae.pack.listing import DATASET_PREFIX, Listing, PackRequest, extension_of
from mae.pack.table_rows import SUFFIXES
from mae.pack.tables import list_table
from mae.pack.tars import list_tars
from mae.storage.remote import is_remote

EXPECTED = f"a folder of images, {', '.join(SUFFIXES)}, .tar or {DATASET_PREFIX}NAME"
ARCHIVES = (".zip", ".7z", ".rar", ".gz", ".tgz", ".bz2", ".xz", ".zst")


def list_sources(request: PackRequest, portion: Portion = ALONE) -> Listing:
    """List all images of a request, in all processes of a launch.

    The first downloads a data set, or indexes tars, before the others list them.  Raises UserError,
    one line per fault, where there is no image or a table or label is wrong.
    """
    if request.classes is not None and request.labels is False:
        raise UserError("--classes and --no-labels contradict each other")
    try:
        if request.classes is None:
            return _list_sources(request, None, portion)
        names = read_class_list(request.classes)
        listing = _list_sources(request._replace(labels=True), names, portion)
        return apply_class_list(listing, names, request.classes)
    except OSError as error:  # folders on the way that may not be searched, names too long
        where = printable(str(error.filename or request.sources[0]))
        raise UserError(f"{where}: cannot be read: {error.strerror}") from None


def _list_sources(request: PackRequest, names: Sequence[str] | None, portion: Portion) -> Listing:
    """List the images of a request; `names`: class names of --classes."""
    first = request.sources[0]
    _refuse_options(request)
    if len(request.sources) == 1:
        if first.startswith(DATASET_PREFIX):
            from mae.pack.datasets import list_dataset  # torchvision comes with it

            name = first.removeprefix(DATASET_PREFIX)
            return portion.first_before_others(
                lambda: list_dataset(name, request.root, request.labels)
            )
        path = Path(with_home(first))
        if path.is_dir():
            chosen = (request.include, request.exclude, request.masks)
            return list_folder(path, request.labels, *chosen)
        if path.suffix.lower() in SUFFIXES and path.exists():
            # Where classes are called "0", "1" …, such labels are names as well.
            named = any(name.isdecimal() for name in names or ())
            columns = (request.path_column, request.label_column)
            chosen = (request.include, request.exclude)
            return list_table(path, *columns, request.labels, *chosen, named=named)
    folders = {Path(with_home(source)).parent for source in request.sources}
    if len(folders) == 1 and all(Path(with_home(source)).is_dir() for source in request.sources):
        (folder,) = folders
        raise UserError(f"{first}: only one folder is packed: give {shlex.quote(str(folder))}")
    for source in request.sources:
        _require_tars(source)
    return portion.first_before_others(
        lambda: list_tars(request.sources, request.labels, request.cache)
    )


def _refuse_options(request: PackRequest) -> None:
    """Raise UserError for options that this kind of source does not have."""
    path = Path(with_home(request.sources[0]))
    if request.masks is not None and not path.is_dir():
        raise UserError("--masks is for folders of images")
    if (request.include or request.exclude) and not (path.is_dir() or _is_table(path)):
        raise UserError("--include and --exclude are for folders and tables of images")


def _require_tars(source: str) -> None:
    """Raise UserError for a source that is no shards, or cannot be packed with others."""
    if is_remote(source):
        if not source.startswith("pipe:") and not _is_shards(source.partition("?")[0]):
            raise UserError(f"{redacted(source)}: cannot be packed: only .tar is read from servers")
        return
    path = Path(with_home(source))
    if source.startswith(DATASET_PREFIX) or path.is_dir() or _is_table(path):
        raise UserError(
            f"{source}: only tars can be packed together; give one folder, table or data set"
        )
    if _is_shards(source):
        return
    if not path.exists():
        raise UserError(f"{source}: {_missing(path)}")
    if path.suffix.lower() in ARCHIVES:
        raise UserError(f"{source}: is an archive: unpack it and give the folder")
    if extension_of(source) in EXTENSIONS:
        folder = shlex.quote(str(path.parent))
        raise UserError(f"{source}: is a single image: give its folder, {folder}")
    raise UserError(f"{source}: cannot be packed: expected {EXPECTED}")


def _is_shards(name: str) -> bool:
    return name.lower().endswith((".tar", ".json"))


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.exists()


def _missing(path: Path) -> str:
    """Kind of a path that does not exist, by its name, with names like it."""
    suffix = path.suffix.lower()
    kind = "folder"
    if suffix in SUFFIXES:
        kind = f"{suffix} table"
    elif suffix in ARCHIVES:
        kind = f"{suffix} file"
    elif suffix[1:] in EXTENSIONS:
        kind = "image"
    elif suffix:
        kind = "file or folder"
    parent = path.parent
    if not parent.is_dir():
        return f"no such {kind}: there is no folder {parent}"
    near = difflib.get_close_matches(path.name, sorted(found.name for found in parent.iterdir()), 1)
    return f"no such {kind}" + (f", did you mean {near[0]}?" if near else "")
