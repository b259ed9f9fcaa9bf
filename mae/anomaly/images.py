"""Images of a data set through the members of a detector, part by part."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mae.anomaly.defect_masks import DefectMasks
from mae.anomaly.detector import Member, image_scores
from mae.anomaly.localisation import Counts, count_pixels, merged
from mae.anomaly.looks import WORDS, look_of
from mae.anomaly.patch_features import Maps, PatchFeatures
from mae.anomaly.pixel_maps import image_map
from mae.anomaly.scorer import Scorer
from mae.anomaly.tiles import Size, ViewRule
from mae.base.errors import SampleError, UserError
from mae.data.images import BadSample, Images
from mae.data.worker_loader import load_in_workers
from mae.evaluation.parts import pack_columns, unpack_columns

BATCH = 32
"""images per batch"""
IN_TILES = 4
"""images per batch that are scored in tiles"""
TILE_BITS = 40
"""bits of a sample's number, before that of a tile"""
SCORES, SAMPLES, LOOKS, PIXELS = "scores.", "samples", "looks", "pixels."
"""names of stored columns: scores of each member, numbers in the manifest, marks of the images
(`look_of`), counts of pixels of each member"""
OF_MASKS = "of_masks"
"""name of the column that says of each stored error whether it is a mask's"""


class Views(NamedTuple):
    """Views of the images of a batch by each rule; bad images have no row."""

    images: dict[ViewRule, list[Tensor]]
    """integers [b c *size], in the order of the samples; views of their own sizes one by one"""
    samples: list[int]
    bad: list[BadSample]
    shapes: list[Size]
    """height and width of each image as it was"""
    looks: list[np.ndarray]
    """marks of each image, see `look_of`"""


class RuledViews(Dataset):
    """Sample numbers → `Views` of the images, for data workers."""

    def __init__(self, images: Images, rules: Sequence[ViewRule]) -> None:
        self.images, self.rules = images, list(dict.fromkeys(rules))

    def __getitem__(self, index: Sequence[int]) -> Views | UserError:
        """Views of some samples; a StorageError comes back as a value."""
        found: dict[int, list[Tensor]] = {}
        bad, shapes, looks = [], [], []
        for sample in index:
            try:
                image = self.images[sample]
                found[sample] = [rule.view(image) for rule in self.rules]
                shapes.append((image.shape[-2], image.shape[-1]))
                looks.append(look_of(image[: self.images.channels]))
            except SampleError as error:
                bad.append(BadSample(sample, str(error)))
            except UserError as error:
                return error
        views = dict(zip(self.rules, zip(*found.values(), strict=True), strict=False))
        images = {
            rule: [torch.stack(own).contiguous()] if rule.is_fixed else [one[None] for one in own]
            for rule, own in views.items()
        }
        return Views(images, list(found), bad, shapes, looks)


def batch_size(features: Iterable[PatchFeatures]) -> int:
    """Images per batch."""
    return IN_TILES if any(one.rule.tiling for one in features) else BATCH


def views_of(
    images: Images,
    features: Sequence[PatchFeatures],
    batches: Sequence[Sequence[int]],
    workers: int,
) -> Iterator[Views]:
    """Views of the samples of each batch."""
    return load_in_workers(RuledViews(images, [one.rule for one in features]), batches, workers)


@torch.no_grad()  # of a generator: while it runs, not in the loop over it
def maps_of(
    views: Views, features: PatchFeatures, scorer: Scorer, device: torch.device | str
) -> Iterator[tuple[Maps, list[int]]]:
    """Features of views and their tiles, some at a time, and a number for each row of them.

    The number of an image is that of its sample; that of a tile depends on its place, too.
    """
    samples = iter(views.samples)
    for group in views.images.get(features.rule, ()):
        own = list(islice(samples, len(group)))
        for tiles, maps in features.in_tiles(group.to(device), scorer.is_positional):
            rows = tiles[:1] if scorer.is_positional else tiles
            yield maps, [sample + (tile << TILE_BITS) for tile in rows for sample in own]


class Scored(NamedTuple):
    """Scores of some images."""

    scores: dict[str, np.ndarray]
    """float64 [n] of each member, by its name"""
    samples: np.ndarray
    """int64 [n] numbers in the manifest"""
    bad: list[str]
    """errors of the images without a score"""
    bad_masks: list[str]
    """errors of masks, whose images have a score, but no counts of pixels"""
    looks: np.ndarray
    """int64 [n WORDS] marks, see `look_of`"""
    pixels: dict[str, Counts]
    """of each member, where there are masks"""


def score_views(
    found: Iterable[Views],
    members: Mapping[str, Member],
    device: torch.device | str,
    masks: DefectMasks | None = None,
) -> Scored:
    """Scores of the images of some batches; with `masks` counts of their pixels, too.

    Raises UserError for scores that are not finite, StorageError for unreadable masks.
    """
    scores: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in members}
    pixels: dict[str, list[Counts]] = {name: [] for name in members}
    samples: list[int] = []
    looks: list[np.ndarray] = [np.empty((0, WORDS), np.int64)]
    bad: list[str] = []
    bad_masks: list[str] = []
    for views in found:
        bad += [one.reason for one in views.bad]
        if not views.samples:
            continue
        samples += views.samples
        looks += [np.stack(views.looks)]
        defects = masks.of_batch(views.samples, views.shapes, bad_masks) if masks else {}
        for name, member in members.items():
            rule = member.features.rule
            images = zip(views.samples, views.shapes, strict=True)
            for one in views.images[rule]:
                maps = member.maps(one.to(device))
                if not maps.isfinite().all():
                    raise UserError(f"{member.about}: scores are not finite: weights are damaged")
                scores[name].append(image_scores(maps).cpu().numpy())
                size = one.shape[-2], one.shape[-1]
                for own, (sample, shape) in zip(maps.cpu(), images, strict=False):
                    if sample in defects:
                        of_pixels = image_map(own.float(), rule, size, shape).numpy()
                        pixels[name].append(count_pixels(sample, of_pixels, defects[sample]))
    return Scored(
        {name: np.concatenate(parts) for name, parts in scores.items()},
        np.array(samples, np.int64),
        bad,
        bad_masks,
        np.concatenate(looks),
        {name: merged(parts) for name, parts in pixels.items() if parts},
    )


def pack(scored: Scored) -> bytes:
    """Scores as bytes; numbers keep all digits."""
    columns = {f"{SCORES}{name}": values for name, values in scored.scores.items()}
    for name, counts in scored.pixels.items():
        columns |= {f"{PIXELS}{key}.{name}": table for key, table in counts.items()}
    columns |= {SAMPLES: scored.samples, LOOKS: scored.looks}
    columns[OF_MASKS] = np.repeat([False, True], [len(scored.bad), len(scored.bad_masks)])
    return pack_columns(columns, [*scored.bad, *scored.bad_masks])


def joined(parts: Iterable[bytes]) -> Scored:
    """Scores of all parts."""
    found = [unpack_columns(part) for part in parts]
    columns = {
        name: np.concatenate([one.columns[name] for one in found])
        for name in found[0].columns
        if not name.startswith(PIXELS)
    }
    samples, looks, of_masks = (columns.pop(name) for name in (SAMPLES, LOOKS, OF_MASKS))
    reasons = [reason for one in found for reason in one.reasons]
    errors = list(zip(reasons, of_masks.tolist(), strict=True))
    pixels: dict[str, list[Counts]] = {}
    for one in found:
        of_part: dict[str, Counts] = {}
        for name, table in one.columns.items():
            if name.startswith(PIXELS):
                key, member = name.removeprefix(PIXELS).split(".", 1)
                of_part.setdefault(member, {})[key] = table
        for member, counts in of_part.items():
            pixels.setdefault(member, []).append(counts)
    return Scored(
        {name.removeprefix(SCORES): values for name, values in columns.items()},
        samples,
        [reason for reason, of_mask in errors if not of_mask],
        [reason for reason, of_mask in errors if of_mask],
        looks,
        {name: merged(counts) for name, counts in pixels.items()},
    )
