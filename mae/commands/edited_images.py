"""Images and labelled shards of `mae edit`: the editor, and the images that it edits."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mae.base.errors import UserError
from mae.commands.judged_images import reading_of
from mae.commands.numbered_images import Loaded, ShardImages, load_images, open_numbered
from mae.data.class_matching import in_classes_of, with_class_names
from mae.data.images import Images
from mae.data.joined_manifests import select
from mae.data.opening import open_labelled
from mae.evaluation.comparison import seen_in_train
from mae.generation.attributes import Attribute, parse_attribute
from mae.generation.editing import Editor, fit_editor, held_out_fifth
from mae.generation.judges import open_judge
from mae.generation.latents import LatentSpace
from mae.generation.real_images import Reading


class OpenedEditor(NamedTuple):
    """Editor, and the labelled images that it was fitted to and is measured on."""

    editor: Editor
    labelled: Images
    held_out: Images
    reading: Reading
    notes: list[str]


def open_editor(
    args: argparse.Namespace, space: LatentSpace, device: str, log: Callable[[str], None]
) -> OpenedEditor:
    """Fit the editor to --direction.  Raises UserError where images or classes do not fit."""
    opened, notes = space.opened, []
    judge = open_judge(args.judge, opened, device)
    labelled, _ = open_labelled(args.direction, "--direction", opened.config, (), "")
    names = labelled.manifest.class_names
    labels = np.asarray(labelled.manifest.label).astype(np.int64)
    attribute = parse_attribute(args.attribute, args.source, labels, names)
    if args.test:
        held_out, matched = open_labelled(args.test, "--test", opened.config, names, "--direction")
        notes += [matched] * bool(matched)
        seen_in_train(labelled.manifest, held_out.manifest, log, "--direction")
    else:
        labelled, held_out = held_out_fifth(labelled, args.seed)
    reading = reading_of(args, opened, device, log)
    editor = fit_editor(space, attribute, judge, labelled, reading)
    return OpenedEditor(editor, labelled, held_out, reading, notes)


def load_edited(
    args: argparse.Namespace, space: LatentSpace, attribute: Attribute, log: Callable[[str], None]
) -> Loaded:
    """The first --count images to edit; of labelled shards those of the class --from.

    Raises UserError as `load_images`, and where no image is of that class.
    """
    opened = space.opened
    size = opened.objective.img_size
    found = open_numbered(args.images, opened.config, size)
    if isinstance(found, ShardImages) and attribute.source is not None:
        manifest = with_class_names(found.images.manifest, "images")
        if manifest.class_names and attribute.class_names:
            manifest = in_classes_of(manifest, attribute.class_names, "images", "--direction")
        rows = np.flatnonzero(attribute.lacks(np.asarray(manifest.label)))
        if not len(rows):
            name = attribute.name(attribute.source)
            raise UserError(f"images: none is of the class {name} (--from)")
        images = found.images.of(select(found.images.manifest, rows))
        found = ShardImages(images, opened.config, size)
    return load_images(found, size, args.count, log)
