"""Folders of images as data: packed once into `data.packed_dir`, read from there ever after.

A copy is named by the folder's last name and a digest of its files (paths, sizes, modification
times) and of the options: a folder that has changed gets a new one.  Beside the shards of `mae
pack` lie `folder.json` (the folder) and `files.tsv` (its files, to name what has changed).
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from mae.base.device import usable_cores
from mae.base.errors import UserError
from mae.base.files import discard
from mae.base.locks import locked
from mae.base.output import print_error
from mae.base.parts_folder import bytes_done
from mae.config.sections import DataConfig
from mae.data.index import short_hash
from mae.data.shards import with_home
from mae.pack.folder_changes import changes_since
from mae.pack.folder_copies import (
    copies_of,
    copy_in_use,
    copy_name,
    delete,
    delete_former,
    describe,
    is_whole,
    take,
)
from mae.pack.folders import SplitFolders, list_folder
from mae.pack.listing import Listing
from mae.pack.mask_pairs import LIKELY
from mae.pack.output import manifest_file
from mae.pack.shard_plan import TAR_BLOCKS, PackOptions
from mae.storage.remote import is_remote

Split = Literal["all", "train", "val"]
"""images of a folder: all of them, or those of one side of data.val_share"""
SHARD_BYTES = 1_000_000_000
FEW = 500
"""number of images up to which starting worker processes takes longer than packing"""

_settled: dict[tuple[Path, float, Path], "FolderCopy"] | None = None
"""copies found within `settled_folders`, by folder, share and place; None: outside of it"""


class FolderCopy(NamedTuple):
    """Shards of a folder of images."""

    folder: Path
    """the folder of the shards"""
    has_val: bool
    """some of the images are held out"""

    def manifest(self, split: Split) -> str:
        """Manifest file of the images of a split, a value of data.train or data.val."""
        is_val = split == "val" and self.has_val
        return str(manifest_file(self.folder, "val" if is_val else "train"))


@contextmanager
def settled_folders() -> Iterator[None]:
    """Context in which a folder that is asked for again is its first copy, without a look at it.

    A run starts with the same images for all that it does, though files are added meanwhile, and
    lists a large folder once.
    """
    global _settled
    outer, _settled = _settled, {} if _settled is None else _settled
    try:
        yield
    finally:
        _settled = outer


def is_folder(pattern: str) -> bool:
    """True where a pattern of shards names a folder of images: one without shards in it."""
    if is_remote(pattern):
        return False
    path = Path(with_home(pattern))
    try:
        return path.is_dir() and not any(path.glob("*.tar"))
    except OSError:
        return False


def with_packed_folders(
    patterns: Sequence[str], key: str, data: DataConfig, suggests: bool = True
) -> tuple[str, ...]:
    """`patterns`, with the manifest of a packed copy for each folder of images.

    `key` names them in messages; data.train and data.val are the two sides of data.val_share.
    `suggests`: what is packed is reported with settings that suit the images.  Raises UserError as
    `packed_folder`, and where data.val_share is one of shards.
    """
    split, share = split_of(key, data)
    found = []
    for pattern in patterns:
        if is_folder(pattern):
            copy = packed_folder(pattern, key, data.packed_dir, share, suggests=suggests)
            found.append(copy.manifest(split))
        elif split == "val":
            raise UserError(
                f"data.val_share: holds out images of a folder, and data.train names {pattern}: "
                "give data.val instead"
            )
        else:
            found.append(pattern)
    return tuple(found)


def split_of(key: str, data: DataConfig) -> tuple[Split, float]:
    """Split of a folder that a setting of data stands for, and the share held out."""
    splits: dict[str, Split] = {"data.train": "train", "data.val": "val"}
    if not data.val_share or data.val or key not in splits:
        return "all", 0.0
    return splits[key], data.val_share


def packed_folder(
    folder: str | Path,
    key: str = "data.train",
    packed_dir: Path | None = None,
    val_share: float = 0.0,
    log: Callable[[str], None] = print_error,
    suggests: bool = True,
) -> FolderCopy:
    """Copy of a folder of images in shards, made unless `packed_dir` has one of its files.

    `val_share` of the images are held out, in shards of their own.  Class folders and masks are as
    for `mae pack`, except that likely masks count as masks.  Of processes that ask for the same
    copy one makes it, and the others wait.  Former copies that no process reads are deleted.

    `suggests`: as in `with_packed_folders`.

    Raises UserError, naming `key`, where the folder holds no image or cannot be read, and where
    `packed_dir` has no room or cannot be written.
    """
    place = (packed_dir or DataConfig().packed_dir).expanduser().absolute()
    asked = (Path(with_home(str(folder))).absolute(), val_share, place)
    if _settled is not None and asked in _settled:
        return _settled[asked]
    listing = list_images(folder, key)
    held_out = round(len(listing.sources) * val_share)
    if val_share and not 0 < held_out < len(listing.sources):
        raise UserError(
            f"data.val_share: {val_share:g} of {len(listing.sources)} images are {held_out}: both "
            "sides need at least one"
        )
    copy = FolderCopy(place / copy_name(listing, val_share), val_share > 0)
    try:
        if take(copy.folder):
            describe(listing, copy.folder, val_share)
            return _settle(asked, copy)
        place.mkdir(parents=True, exist_ok=True)
        with _alone(place / f"{short_hash(listing.name)}.lock", listing.name, log):
            if not take(copy.folder):
                _make(listing, copy.folder, key, val_share, log, suggests)
                delete_former(place, listing.name, copy.folder)
                if not take(copy.folder):
                    raise UserError(f"{key}: {copy.folder} is gone: run the same command again")
    except OSError as error:
        raise UserError(
            f"data.packed_dir: {place}: cannot be written: {error.strerror or error}: choose "
            f"another, or pack {listing.name} yourself (mae pack)"
        ) from None
    return _settle(asked, copy)


def _settle(asked: tuple[Path, float, Path], copy: FolderCopy) -> FolderCopy:
    if _settled is not None:
        _settled[asked] = copy
    return copy


def is_packed(folder: str, key: str, data: DataConfig) -> bool:
    """True where there is a copy of a folder as it is, for a setting; raises as `list_images`."""
    name = copy_name(list_images(folder, key), split_of(key, data)[1])
    return is_whole(data.packed_dir.expanduser() / name)


def copies_read(data: DataConfig, sets: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Folder → name of the copy that this process reads, of the folders in `sets`.

    `sets`: key of the setting → its patterns of shards.
    """
    found = {}
    for key, patterns in sets.items():
        for pattern in filter(is_folder, patterns):
            source = _absolute(pattern)
            if copy := copy_in_use(source, split_of(key, data)[1]):
                found[str(source)] = copy
    return found


def _absolute(folder: str | Path) -> Path:
    return Path(os.path.normpath(Path(with_home(str(folder))).absolute()))


def list_images(folder: str | Path, key: str) -> Listing:
    """List the images of a folder.  Raises UserError, naming `key`, where there are none."""
    try:
        return list_folder(_absolute(folder), masks=LIKELY)
    except SplitFolders as error:
        given = str(folder).rstrip("/")
        own = {name.lower(): f"{given}/{name}" for name in error.names}
        train = own.get("train") or own.get("training")
        val = next((path for name, path in own.items() if path != train), "")
        raise UserError(
            f"{key}: {folder} holds splits, not classes: {', '.join(error.names)}: give "
            f"data.train={train or val} data.val={val}"
        ) from None
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    except OSError as error:
        raise UserError(f"{key}: {folder}: cannot be read: {error.strerror}") from None


@contextmanager
def _alone(path: Path, source: str, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the copies of a folder; a wait for another process is said."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, wait=False))
        except BlockingIOError:
            if os.environ.get("LOCAL_RANK", "0") == "0":  # the others of a launch do the same
                log(f"{source}: waiting for another process that packs it")
            stack.enter_context(locked(path))
        yield


def _make(
    listing: Listing,
    copy: Path,
    key: str,
    val_share: float,
    log: Callable[[str], None],
    suggests: bool,
) -> None:
    """Pack a listed folder into `copy`, and say so."""
    from mae.pack.pack import pack_listing
    from mae.pack.summary import summary_lines

    if copy.exists():  # shards of it were deleted
        discard(copy)
    former = copies_of(copy.parent, listing.name)
    changes = changes_since(former[0], listing) if former else None
    if changes is not None and any(changes):
        log(f"{key}: {listing.name} has changed since it was packed: {changes}")
    size = int(listing.sizes.sum()) + len(listing.sizes) * TAR_BLOCKS
    _require_room(listing, copy, size, key)
    images = f"{len(listing.sizes):,} {'image' if len(listing.sizes) == 1 else 'images'}"
    log(
        f"{key}: {listing.name}: {images} ({size / 1e6:,.1f} MB) are packed, once, into {copy} "
        "(data.packed_dir)"
    )
    options = PackOptions(shard_bytes=SHARD_BYTES, val_fraction=val_share, val_by_name=True)
    workers = 0 if len(listing.sizes) <= FEW else usable_cores()
    try:
        packed = pack_listing(listing, copy, options, workers, log=log)
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(f"{key}:") else f"{key}: {text}") from None
    describe(listing, copy, val_share)
    for line in summary_lines(packed, suggests):
        log(line)


def _require_room(listing: Listing, copy: Path, size: int, key: str) -> None:
    """Raise UserError where the disk has no room for a copy, after deleting what nobody reads."""
    needed = size - bytes_done(copy)
    if shutil.disk_usage(copy.parent).free < needed:
        for other in copies_of(copy.parent, listing.name):
            delete(other)
    free = shutil.disk_usage(copy.parent).free
    if free < needed:
        raise UserError(
            f"{key}: packing {listing.name} takes {needed / 1e9:,.1f} GB in {copy.parent}, where "
            f"{free / 1e9:,.1f} GB are free: set data.packed_dir to a larger disk"
        )
