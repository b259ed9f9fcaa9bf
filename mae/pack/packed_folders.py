"""Folders of images as data: packed once into `data.packed_dir`, read from there ever after.

A copy is named by the folder's last name and a digest of its files (paths, sizes, modification
times) and of the options: a folder that has changed gets a new one.  Beside the shards of `mae
pack` lie `folder.json` (the folder) and `files.tsv` (its files, to name what has changed).  A
process that reads a copy holds a shared lock on it until it ends, so that no other deletes it.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from mae.base.device import usable_cores
from mae.base.errors import UserError
from mae.base.files import discard, new_file, read_json, write_json
from mae.base.locks import flock, locked
from mae.base.output import print_error
from mae.base.parts_folder import bytes_done
from mae.base.printable import printable
from mae.config.sections import DataConfig
from mae.data.class_names import ENCODING, escaped
from mae.data.index import short_hash
from mae.data.shards import with_home
from mae.pack.folders import SplitFolders, list_folder
from mae.pack.listing import Listing
from mae.pack.mask_pairs import LIKELY
from mae.pack.output import REPORT, manifest_file
from mae.pack.shard_plan import TAR_BLOCKS, PackOptions
from mae.storage.remote import is_remote

Split = Literal["all", "train", "val"]
"""images of a folder: all of them, or those of one side of data.val_share"""
VERSION = 2
"""changes whenever the same files and options give another copy"""
ABOUT, FILES, IN_USE = "folder.json", "files.tsv", "in-use"
COPY = re.compile(r".*-[0-9a-f]{16}")
"""name of a copy"""
LEFTOVER = re.compile(r"\..*-[0-9a-f]{16}\.(parts|deleted)(\.[0-9a-f]{8})?")
"""name of a copy that was not finished, or not deleted to the end"""
PARTS_AGE = 7 * 86400
"""seconds from which a copy that was not finished is deleted"""
SHARD_BYTES = 1_000_000_000
FEW = 500
"""number of images up to which starting worker processes takes longer than packing"""
KEPT = 1
"""number of former copies of a folder, of the same share, that are kept beside the newest"""
MAX_AGE = 90 * 86400
"""seconds after its last use from which a copy is deleted when another one is made"""
SHOWN = 3
"""number of changed files that a message names"""

_in_use: dict[Path, int] = {}
"""copies that this process reads, and their locks, which end with it"""
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


class FolderChanges(NamedTuple):
    """Difference between a folder and a copy of it, as names of files."""

    added: Sequence[str]
    removed: Sequence[str]
    resized: Sequence[str]
    """of another size"""
    touched: Sequence[str]
    """of the same size, but written since"""

    def __str__(self) -> str:
        parts = (
            (self.added, "added"),
            (self.removed, "removed"),
            ([*self.resized, *self.touched], "changed"),
        )
        words = [
            f"{len(names):,} {'file' if len(names) == 1 else 'files'} {what} "
            f"({', '.join(map(printable, names[:SHOWN]))}{' …' if len(names) > SHOWN else ''})"
            for names, what in parts
            if names
        ]
        return ", ".join(words) or "other options"


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


def with_packed_folders(patterns: Sequence[str], key: str, data: DataConfig) -> tuple[str, ...]:
    """`patterns`, with the manifest of a packed copy for each folder of images.

    `key` names them in messages; data.train and data.val are the two sides of data.val_share.
    Raises UserError as `packed_folder`, and where data.val_share is one of shards.
    """
    split, share = split_of(key, data)
    found = []
    for pattern in patterns:
        if is_folder(pattern):
            found.append(packed_folder(pattern, key, data.packed_dir, share).manifest(split))
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
) -> FolderCopy:
    """Copy of a folder of images in shards, made unless `packed_dir` has one of its files.

    `val_share` of the images are held out, in shards of their own.  Class folders and masks are as
    for `mae pack`, except that likely masks count as masks.  Of processes that ask for the same
    copy one makes it, and the others wait.  Former copies that no process reads are deleted.

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
        if _take(copy.folder):
            _describe(listing, copy.folder, val_share)
            return _settle(asked, copy)
        place.mkdir(parents=True, exist_ok=True)
        with _alone(place / f"{short_hash(listing.name)}.lock", listing.name, log):
            if not _take(copy.folder):
                _make(listing, copy.folder, key, val_share, log)
                _delete_former(place, listing.name, copy.folder)
                if not _take(copy.folder):
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
    return _is_whole(data.packed_dir.expanduser() / name)


def list_images(folder: str | Path, key: str) -> Listing:
    """List the images of a folder.  Raises UserError, naming `key`, where there are none."""
    source = Path(with_home(str(folder))).absolute()
    try:
        return list_folder(Path(os.path.normpath(source)), masks=LIKELY)
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


def copy_name(listing: Listing, val_share: float = 0.0) -> str:
    """Name of the copy of a listed folder: equal as long as its files are."""
    name = re.sub(r"[^\w.-]", "_", printable(Path(listing.name).name))[:64] or "folder"
    text = json.dumps([VERSION, listing.fingerprint, val_share])
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def source_of(copy: Path) -> str:
    """Folder that `copy` is a copy of; "" for any other folder."""
    return str(read_json(copy / ABOUT).get("folder", "")) if COPY.fullmatch(copy.name) else ""


def copies_in_use() -> dict[str, str]:
    """Folder → name of its copy, of the copies that this process reads."""
    return {source: copy.name for copy in _in_use if (source := source_of(copy))}


def changes_since(copy: Path, listing: Listing) -> FolderChanges | None:
    """Changes of a listed folder since `copy` was made; None where that is gone."""
    before: dict[str, tuple[int, int]] = {}
    try:
        for row in (copy / FILES).read_text(*ENCODING).split("\n")[:-1]:
            size, written, name = row.split("\t")
            before[name] = (int(size), int(written))
    except (OSError, ValueError):
        return None
    now = {name: (size, written) for size, written, name in _files(listing)}
    both = [name for name in now if name in before and now[name] != before[name]]
    return FolderChanges(
        added=[name for name in now if name not in before],
        removed=[name for name in before if name not in now],
        resized=[name for name in both if now[name][0] != before[name][0]],
        touched=[name for name in both if now[name][0] == before[name][0]],
    )


def _files(listing: Listing) -> Iterator[tuple[int, int, str]]:
    """(size, modification time, name) of each image."""
    assert listing.times is not None
    for number, (size, written) in enumerate(
        zip(listing.sizes.tolist(), listing.times.tolist(), strict=True)
    ):
        yield size, written, escaped(listing.name_of(number))


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


def _take(copy: Path) -> bool:
    """Hold a copy, if it is there and whole, for as long as this process lives."""
    if copy in _in_use and _is_whole(copy):
        _mark_used(copy)
        return True
    try:
        lock = os.open(copy / IN_USE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # there is no such copy, or it is another user's
        return _is_whole(copy)
    with suppress(OSError):  # a file system without locks
        flock(lock, shared=True)
    if _is_whole(copy):  # not deleted before the lock was there
        _in_use[copy] = lock
        _mark_used(copy)
        return True
    os.close(lock)
    discard(copy / IN_USE)
    return False


def _mark_used(copy: Path) -> None:
    with suppress(OSError):
        os.utime(copy / IN_USE)


def _is_whole(copy: Path) -> bool:
    """True where a copy has the shards that it was made with."""
    shards = read_json(copy / REPORT).get("shards", {})
    return bool(shards) and all(
        len(list(copy.glob(f"{split}-*.tar"))) == count for split, count in shards.items()
    )


def _make(
    listing: Listing, copy: Path, key: str, val_share: float, log: Callable[[str], None]
) -> None:
    """Pack a listed folder into `copy`, and say so."""
    from mae.pack.pack import pack_listing
    from mae.pack.summary import summary_lines

    if copy.exists():  # shards of it were deleted
        discard(copy)
    former = _copies_of(copy.parent, listing.name)
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
    _describe(listing, copy, val_share)
    for line in summary_lines(packed):
        log(line)


def _describe(listing: Listing, copy: Path, val_share: float) -> None:
    """Write what lies beside the shards, unless it is there: a killed process may have left it out.

    Nothing is written to another user's copy.
    """
    if (copy / ABOUT).exists() or not os.access(copy, os.W_OK):
        return
    with new_file(copy / FILES) as part:
        rows = (f"{size}\t{written}\t{name}\n" for size, written, name in _files(listing))
        part.write_text("".join(rows), *ENCODING, newline="\n")
    about = {"folder": listing.name, "images": len(listing.sizes), "val_share": val_share}
    write_json(copy / ABOUT, about)


def _require_room(listing: Listing, copy: Path, size: int, key: str) -> None:
    """Raise UserError where the disk has no room for a copy, after deleting what nobody reads."""
    needed = size - bytes_done(copy)
    if shutil.disk_usage(copy.parent).free < needed:
        for other in _copies_of(copy.parent, listing.name):
            _delete(other)
    free = shutil.disk_usage(copy.parent).free
    if free < needed:
        raise UserError(
            f"{key}: packing {listing.name} takes {needed / 1e9:,.1f} GB in {copy.parent}, where "
            f"{free / 1e9:,.1f} GB are free: set data.packed_dir to a larger disk"
        )


def _copies_of(place: Path, source: str) -> list[Path]:
    """Copies of a folder, the last used first."""
    return [copy for copy in _all_copies(place) if source_of(copy) == source]


def _all_copies(place: Path) -> list[Path]:
    """Copies of all folders, the last used first."""
    found = []
    for copy in place.iterdir():
        if COPY.fullmatch(copy.name):
            with suppress(OSError):
                found.append(((copy / IN_USE).stat().st_mtime_ns, copy))
    return [copy for _, copy in sorted(found, reverse=True)]


def _delete_former(place: Path, source: str, newest: Path) -> None:
    """Delete copies that no process reads: former ones of a folder, and old ones of any."""
    share = read_json(newest / ABOUT).get("val_share")
    own = [
        copy
        for copy in _copies_of(place, source)
        if copy != newest and read_json(copy / ABOUT).get("val_share") == share
    ]
    for copy in _all_copies(place):
        with suppress(OSError):
            age = time.time() - (copy / IN_USE).stat().st_mtime
            if copy in own[KEPT:] or (copy != newest and age > MAX_AGE):
                _delete(copy)
    for rest in place.glob(".*"):  # of processes that were killed, and never run again
        with suppress(OSError):
            if LEFTOVER.fullmatch(rest.name) and time.time() - rest.stat().st_mtime > PARTS_AGE:
                discard(rest)


def _delete(copy: Path) -> None:
    """Delete a copy unless a process reads it."""
    try:
        lock = os.open(copy / IN_USE, os.O_RDWR)
    except OSError:
        return
    try:
        flock(lock, wait=False)
        doomed = copy.with_name(f".{copy.name}.deleted")
        copy.rename(doomed)
        discard(doomed)
    except OSError:  # it is read, or there are no locks to know that by
        pass
    finally:
        os.close(lock)
