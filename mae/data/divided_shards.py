"""Shards divided among processes: parts of neighbouring shards, their place, and their currency."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mae.base.divided_work import DividedWork, part_sizes
from mae.base.errors import RunFailed, UserError
from mae.base.portion import ALONE, Portion
from mae.base.progress import Progress
from mae.data.index import DEFAULT_INDEX_DIR, index_folder, short_hash
from mae.storage.background import BackgroundThreads
from mae.storage.remote import canonical_address, is_remote

PARTS = "shards"
"""name of the parts"""
READERS = 16
"""number of shards whose states are looked up at a time"""

Log = Callable[[str], None]


def no_log(text: str) -> None:
    """Print nothing."""


def digest_of_shards(shards: Iterable[str], *more: str) -> str:
    """Digest of the shards' places, which are no secret in it, and of further texts."""
    digest = hashlib.sha256()
    for shard in shards:
        place = canonical_address(shard) if is_remote(shard) else str(Path(shard).absolute())
        digest.update(f"{place}\0".encode("utf-8", "surrogateescape"))
    digest.update("\0".join(more).encode())
    return digest.hexdigest()


@contextmanager
def parts_place(
    command: str, shards: Sequence[str], index_dir: Path | None, portion: Portion, log: Log
) -> Generator[Path]:
    """Yield the name of the parts, for `divided_work`, of a command on shards that writes no file.

    They lie in the folder of the first one's index; where that cannot be written, in the user's
    own, which is logged where several processes must see it.  Where that cannot be written, either,
    one process alone uses a temporary folder; of several, the first raises UserError.
    """
    name = f"{command}-{short_hash(f'{os.getuid()} {digest_of_shards(shards)}')}"
    folder = portion.from_first(lambda: _parts_folder(shards[0], index_dir, portion, log))
    if folder is not None:
        yield folder / name
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary, name)


def _parts_folder(shard: str, index_dir: Path | None, portion: Portion, log: Log) -> Path | None:
    folder, fallback = index_folder(shard, index_dir), DEFAULT_INDEX_DIR.expanduser()
    if _is_writable(folder):
        return folder
    hint = "--index-dir names another one"
    if not _is_writable(fallback):
        if portion == ALONE:
            return None
        raise UserError(f"{folder}: cannot be written, and neither can {fallback}: {hint}")
    if portion != ALONE:
        log(f"{folder}: cannot be written: the parts lie in {fallback}, {hint}")
    return fallback


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def divide_shards(
    work: DividedWork,
    shards: int,
    make: Callable[[Sequence[range]], Iterable[tuple[int, bytes]]],
    states: Callable[[bytes], Iterable[str]],
    state_now: Callable[[int, str], str],
    show: Progress,
) -> Iterator[bytes]:
    """Do this process's parts of work on `shards` shards; the results of all, in order.

    `make`: numbers of the shards of each part → (place of the part among these, result), in any
    order.  Parts of an earlier attempt are done again where the state of a shard, of the `states`
    in the result, is not what `state_now` says of it, or not known ("").  An error of one process
    is raised by the first one, once all others have done their parts.
    """
    portion, sizes = work.portion, part_sizes(shards, 1)
    error: UserError | RunFailed | None = None

    def rows(part: int) -> range:
        return range(part * sizes[0], part * sizes[0] + sizes[part])

    def outdated(parts: Iterable[tuple[int, bytes]]) -> set[int]:
        known = [
            (part, shard, state)
            for part, result in parts
            for shard, state in zip(rows(part), states(result), strict=True)
        ]
        with BackgroundThreads(READERS, "state") as background:
            asked = [(*one, background.submit(state_now, *one[1:])) for one in known if one[2]]
            changed = {part for part, _, state, now in asked if now.result() != state}
        if portion.is_join:  # which does no part itself: the tasks have just done them
            return changed
        return changed.union(part for part, _, state in known if not state)

    def make_here(parts: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        nonlocal error
        try:
            if error is None:
                for place, result in make([rows(part) for part in parts]):
                    yield parts[place], result
        except (UserError, RunFailed) as caught:
            if not portion.is_launched:
                raise
            error = caught

    try:
        work.drop_outdated(PARTS, len(sizes), outdated)
    except (UserError, RunFailed) as caught:
        if not portion.is_launched:
            raise
        error = caught
    work.do(PARTS, sizes, make_here, show)
    portion.raise_common(error)
    return work.results(PARTS, len(sizes))
