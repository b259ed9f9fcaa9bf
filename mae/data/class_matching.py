"""Classes of two data sets, or of a model and a data set, matched by name.

Names decide where both sides have them; numbers are compared only where one has none.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.redaction import redacted
from mae.data.class_names import (
    FILE,
    Names,
    beside,
    class_numbers,
    count_classes,
    quoted,
    read_names,
)
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest
from mae.data.shard_index import class_list_digest

REMEDY = "use the same classes (mae pack --classes FILE packs a second set by the first's names)"


def with_class_names(manifest: Manifest, key: str) -> Manifest:
    """`manifest` with the class names beside its shards; `key` names it in messages.

    Shards of several folders get one numbering, that of the longest list of names, which those
    without names are taken to follow (`class_note` says so).  Raises UserError where a folder has
    other classes, a label has no name, or names cannot be read.
    """
    folders: dict[str, list[int]] = {}
    for number, shard in enumerate(manifest.shards):
        folders.setdefault(beside(shard, with_query=False), []).append(number)
    if not (np.asarray(manifest.label) != NO_LABEL).any():
        return manifest
    lists = {
        file: read_names(beside(manifest.shards[shards[0]])) if file else ()
        for file, shards in folders.items()
    }
    _check_numbered(manifest, folders, key)
    first, names = max(lists.items(), key=lambda one: len(one[1]))
    if not names:
        return manifest
    label, note = np.array(manifest.label), ""
    shard_of = np.repeat(np.arange(len(manifest.shards)), manifest.counts())
    for file, shards in folders.items():
        rows = np.flatnonzero(np.isin(shard_of, shards))
        own = lists[file] or names
        if len(beyond := np.flatnonzero(label[rows] >= len(own))):
            sample = int(rows[beyond[0]])
            raise UserError(
                f"{key}: {redacted(file if lists[file] else first)} names {len(own)} classes, but "
                f"{manifest.name(sample)} has label {label[sample]} (counted from 0): complete the "
                "names, or delete that file"
            )
        if not lists[file] and (label[rows] != NO_LABEL).any():
            shard = redacted(manifest.shards[shards[0]])
            note = (
                f"class numbers of {shard} taken as those of {redacted(first)}: no {FILE} beside it"
            )
        where = f"{key}: {redacted(file)}"
        label[rows] = renumber(label[rows], own, names, where, redacted(first))
    return manifest.changed(label=label, class_names=names, class_note=note)


def _check_numbered(manifest: Manifest, folders: Mapping[str, Sequence[int]], key: str) -> None:
    """Raise UserError where texts became numbers by other class names than there are now."""
    for file, shards in folders.items():
        lists = {manifest.class_lists[shard] for shard in shards if manifest.class_lists} - {""}
        if lists and lists != {
            class_list_digest(class_numbers(beside(manifest.shards[shards[0]])))
        }:
            where = manifest.source.location if manifest.source else manifest.shards[shards[0]]
            raise UserError(
                f"{key}: {redacted(where)} was made with other class names than {redacted(file)} "
                "lists now: make it again (mae index --out)"
            )


def in_classes_of(manifest: Manifest, names: Names, key: str, of: str) -> Manifest:
    """`manifest` with the labels that `names` give to its classes.

    Raises UserError as `renumber`.  Unchanged where either has no names.
    """
    if not names or not manifest.class_names:
        return manifest
    label = renumber(np.asarray(manifest.label), manifest.class_names, names, key, of)
    return manifest.changed(label=label, class_names=names)


def renumber(
    labels: npt.NDArray, own: Sequence[str], names: Sequence[str], key: str, of: str
) -> npt.NDArray:
    """Labels [n] that count the names `own` → labels that count `names`, by equal names.

    Unchanged where either has no names.  Raises UserError, which calls the two `key` and `of`,
    where a class that occurs is not in `names`, or is there twice.
    """
    if not own or not names or tuple(own) == tuple(names):
        return labels
    number_of = {name: number for number, name in enumerate(names)}
    used = [own[number] for number in np.unique(labels[labels != NO_LABEL]).tolist()]
    both = f"{key} has {quoted(own)}; {of} has {quoted(names)}"
    if unknown := [name for name in used if name not in number_of]:
        missing = f"{count_classes(unknown)} not in {of}: {quoted(unknown)}"
        raise UserError(f"{key}: {missing} ({both}): leave such images out, or {REMEDY}")
    if repeated := [name for name in used if max(own.count(name), names.count(name)) > 1]:
        raise UserError(f"{key}: several classes are called {quoted(repeated[:1])} ({both})")
    numbers = np.array([number_of.get(name, NO_LABEL) for name in own], labels.dtype)
    return np.where(labels == NO_LABEL, labels, numbers[labels])


def match_note(own: Sequence[str], names: Sequence[str], key: str, of: str) -> str:
    """Line on the way that the classes of `key` and `of` were matched; "" for the same names."""
    if own and names:
        return "" if tuple(own) == tuple(names) else f"classes of {key} and {of} matched by name"
    missing = " and ".join([key] * (not own) + [of] * (not names))
    return f"classes of {key} and {of} compared by number: no class names ({FILE}) of {missing}"
