"""Export of latents: shards, indexes, manifests, class names and `latents.json` in one folder."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.disk_space import require_room
from mae.base.divided_work import DividedWork, divided_work
from mae.base.errors import RunFailed, UserError
from mae.base.files import publish, require_new_folder, write_json
from mae.base.parts_folder import is_seen
from mae.base.portion import ALONE, Portion
from mae.base.progress import ProgressLine
from mae.data.class_names import Names, beside, quoted, read_names, write_class_names
from mae.data.images import Images
from mae.data.manifest_file import SUFFIX
from mae.data.views import CentredViews
from mae.evaluation.features import Skipped
from mae.latents.arrays import ArrayMaker, Kind, member
from mae.latents.moments import Moments
from mae.latents.shards import LatentShards, Report, shard_names
from mae.pack.output import write_manifest_of

VERSION = 1
"""changes whenever the same images and options give other shards"""
RECORD = "latents.json"
PARTS, SHARDS = "reports", "shards"
"""names of the parts, a report per shard, and of the folder that becomes the output"""
HEADERS = 1024
"""bytes of a member in a tar besides its values: header and, on average, padding and npy header"""


class LatentsRequest(NamedTuple):
    """Images, model and destination."""

    images: Images
    views: CentredViews
    maker: ArrayMaker
    kinds: Mapping[str, Kind]
    """as `maker.kinds`"""
    scale: Mapping[str, Any]
    """diffusers' settings on the scale that are given; empty: to be measured"""
    model: Mapping[str, Any]
    """record of the model, with its checksum"""
    identity: str
    """all that its latents depend on, besides images and views"""
    out: Path
    """new folder"""
    max_bad: int = 0
    batch_size: int = 16
    workers: int = 0
    portion: Portion = ALONE
    log: Callable[[str], None] = print


def bytes_per_image(kinds: Mapping[str, Kind]) -> int:
    """Size of an image's latents in a shard."""
    return sum(kind.bytes + HEADERS for kind in kinds.values())


def export_latents(request: LatentsRequest) -> dict[str, Any]:
    """Write the folder `request.out`; returns the content of its `latents.json`.

    Each process writes the shards of its portion; the first completes the folder, which appears
    whole.  The same images, model and batch size give the same bytes with any number of processes
    and workers.  An interrupted call resumes from the shards beside `out`.

    Raises UserError where `out` is not empty, more than `request.max_bad` images are bad or none is
    usable, the disk has no room, and for shards of the same name or of several lists of classes;
    PartDone in all processes but the one that joins.
    """
    out, portion, manifest = request.out, request.portion, request.images.manifest
    require_new_folder(out)
    names, classes = shard_names(manifest), _class_names(manifest.shards)
    require_room(out, len(manifest) * bytes_per_image(request.kinds))
    maker, views = request.maker, request.views
    settings = [
        VERSION,
        request.identity,
        [maker.float_type, maker.flip, str(maker.device), request.batch_size],
        [views.img_size, views.crop_pct, request.images.channels, request.images.bits],
        [manifest.fingerprint, names],
    ]
    plan = hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()
    record: dict[str, Any] = {}
    with divided_work(out, plan, portion, request.log) as work:
        work.require_empty(out)
        folder = work.folder / f"{SHARDS}-{work.tag}"
        folder.mkdir(exist_ok=True)
        writer = LatentShards(
            images=request.images,
            views=views,
            maker=maker,
            kinds=request.kinds,
            names=names,
            out=folder,
            temporary=work.folder,
            batch_size=request.batch_size,
            workers=request.workers,
            skipped=_skipped(request),
        )
        counts = manifest.counts().tolist()
        work.do(PARTS, counts, writer.write, ProgressLine("encoding", "images", request.log))
        if portion.is_task:
            portion.leave_to_first()
        if portion.joins:
            reports = [json.loads(one) for one in work.results(PARTS, len(counts))]
            record = _complete(request, folder, names, classes, reports, work)
            publish(folder, out)
    portion.leave_to_first()
    return record


def _skipped(request: LatentsRequest) -> Skipped:
    return Skipped(request.images, request.max_bad, setting="--max-bad")


def _complete(
    request: LatentsRequest,
    folder: Path,
    names: Sequence[str],
    classes: Names,
    reports: Sequence[Report],
    work: DividedWork,
) -> dict[str, Any]:
    """Write what lies beside the finished shards in `folder`; the record of all."""
    skipped, moments, left_out = _skipped(request), Moments(request.kinds), Counter[str]()
    for report in reports:
        skipped.add_reasons(report["bad"])
        moments.merge(report["sums"])
        left_out.update(report["left_out"])
    skipped.report(request.log)
    written = [name for name, report in zip(names, reports, strict=True) if report["images"]]
    for number, (name, report) in enumerate(zip(names, reports, strict=True)):
        if report["images"] and not is_seen((folder / name).exists):
            work.forget(PARTS, number)
            raise RunFailed(f"{folder / name}: is missing: run the same command again")
    write_class_names(classes, folder)
    manifests = {}
    for prefix, own in by_prefix(written).items():
        file = folder / f"manifest{prefix and f'-{prefix}'}{SUFFIX}"
        write_manifest_of([str(folder / name) for name in own], file, work.folder)
        manifests[file.name] = len(own)
    record = {
        "command": "latents",
        "model": dict(request.model),
        "view": {"img_size": list(request.views.img_size), "crop_pct": request.views.crop_pct},
        "images": sum(report["images"] for report in reports),
        "shards": {
            name: report["images"]
            for name, report in zip(names, reports, strict=True)
            if report["images"]
        },
        "members": {
            member(name): {"what": kind.what, "shape": list(kind.shape), "dtype": kind.type}
            for name, kind in request.kinds.items()
        },
        **moments.report(request.scale),
        "classes": list(classes),
        "manifests": manifests,
        "skipped": skipped.reasons,
        "not_copied": dict(sorted(left_out.items())),
        "renamed_keys": sum(report["renamed"] for report in reports),
    }
    write_json(folder / RECORD, record)
    return record


def by_prefix(names: Sequence[str]) -> dict[str, list[str]]:
    """Shards by the start of their names before the number: `train` of `train-000003.tar`."""
    found: dict[str, list[str]] = {}
    for name in names:
        prefix = re.sub(r"[-_.]?\d*$", "", name.removesuffix(".tar"))
        found.setdefault(prefix, []).append(name)
    return found


def _class_names(shards: Sequence[str]) -> Names:
    """Names of the classes beside the shards; UserError where folders have different ones."""
    files = dict.fromkeys(filter(None, (beside(shard) for shard in shards)))
    found = list(dict.fromkeys(names for names in map(read_names, files) if names))
    if len(found) > 1:
        both = " and ".join(quoted(names) for names in found[:2])
        raise UserError(f"shards of different classes ({both}): write each to a folder of its own")
    return found[0] if found else ()
