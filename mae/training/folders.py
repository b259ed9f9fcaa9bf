"""Folders of images that a run is trained on: packed at its start, unchanged when it resumes."""

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.pack.folder_changes import changes_since
from mae.pack.folder_copies import copy_name
from mae.pack.packed_folders import (
    copies_read,
    is_folder,
    list_images,
    split_of,
    with_packed_folders,
)
from mae.training.checkpoint.run import Run

RECORD = "folders"
"""key of starts.jsonl: folder → name of the packed copy that the run was started with"""


def prepare_folders(config: Config, suggests: bool = True) -> None:
    """Pack the folders of images among the data of a run, where there is no copy of them yet.

    Before the processes of a run connect, since packing may take longer than they wait for each
    other: one of each machine packs, the others wait.  `suggests`: report what is packed with
    settings that suit the images.  Raises UserError as `with_packed_folders` and `refuse_changed`.
    """
    data, run = config.data, Run(config.output)
    for key, patterns in training_sets(config).items():
        refuse_changed(run, config, key, patterns)
        with_packed_folders(patterns, key, data, suggests)
    with_packed_folders(data.held_out, "data.val", data, suggests)


def training_sets(config: Config) -> dict[str, tuple[str, ...]]:
    """Shards and folders that a run is trained on, by the key of their setting."""
    sets = {f"data.mixture.{i}": part.shards for i, part in enumerate(config.data.mixture)}
    return sets or {"data.train": config.data.train}


def recorded_folders(config: Config) -> dict[str, str]:
    """Value of RECORD for a run that has just been started."""
    # Of a folder in both, the copy that is trained on counts.
    return copies_read(config.data, {"data.val": config.data.held_out, **training_sets(config)})


def refuse_changed(run: Run, config: Config, key: str, patterns: tuple[str, ...]) -> None:
    """Raise UserError where the run has checkpoints, and a folder other files than at its start.

    Files that were only written anew may hold what they held: their samples are compared later.
    """
    known = run.last_start().get(RECORD, {}) if run.newest_step() is not None else {}
    folders = filter(is_folder, patterns if isinstance(known, dict) and known else ())
    for folder in folders:
        listing = list_images(folder, key)
        former = str(known.get(listing.name, ""))
        if former in ("", copy_name(listing, split_of(key, config.data)[1])):
            continue
        changes = changes_since(config.data.packed_dir.expanduser() / former, listing)
        if changes and (changes.added or changes.removed or changes.resized):
            raise UserError(
                f"{key}: {folder} has changed since {run.folder} was trained on it: {changes}: "
                "restore these files, or choose another output for a new run "
                f"(init.from={run.folder} starts it from the weights)"
            )
