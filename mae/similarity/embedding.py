"""Embedding of a data set: features, neighbours, map and thumbnails in one table."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.divided_work import DividedWork, divided_work
from mae.base.errors import UserError
from mae.base.files import new_file
from mae.base.portion import ALONE, Portion
from mae.base.progress import ProgressLine, busy
from mae.data.images import Images
from mae.data.joined_manifests import select
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest
from mae.data.worker_loader import load_in_workers
from mae.evaluation.feature_cache import identity
from mae.evaluation.features import BATCH
from mae.evaluation.nearest import QUERIES, Neighbours, nearest
from mae.evaluation.parts import PartResult, do_batches, pack_columns, unpack_columns
from mae.similarity.features import FeatureSource, Vectors, encoded, pixels_of
from mae.similarity.figures import measure
from mae.similarity.projection import FEWEST, Projection, project
from mae.similarity.quality import sampled
from mae.similarity.table import ABSENT, Rows, TableWriter
from mae.similarity.thumbnails import (
    Thumbnail,
    Thumbnails,
    pack_thumbnails,
    unpack_thumbnails,
)

VERSION = "2"
"""of the parts: another one where they hold something else"""
PICTURES = 64
"""thumbnails of a batch"""
TOGETHER = 8
"""batches of thumbnails in a part"""


class EmbedRequest(NamedTuple):
    """Settings of an embedding: the images, their features, the map, the table."""

    images: Images
    source: FeatureSource
    out: Path
    """new file, .parquet"""
    projection: Projection = Projection()
    k: int = 10
    """neighbours of each image in the table"""
    max_bad: int | None = None
    """images that may be unusable; None: as the settings of the model say"""
    batch_size: int = BATCH
    workers: int = 0
    portion: Portion = ALONE
    log: Callable[[str], None] = print


def embed(request: EmbedRequest) -> dict[str, Any] | None:
    """Write the table of embeddings; its metadata (`origin`), in the process that writes it.

    Features come from the cache, which is filled first.  Each process does its portion of the
    features, thumbnails and neighbours; the first makes the map.  An interrupted call resumes.
    Raises UserError where `out` exists or cannot be written, more images than allowed are bad, or
    fewer than FEWEST are usable.
    """
    out, source, portion, log = request.out, request.source, request.portion, request.log
    _require_new(request)
    vectors = _encoded(request, source, request.images)
    total = len(vectors.samples)
    if total < FEWEST:
        raise UserError(f"{total} usable images: a map needs at least {FEWEST}")
    plan = json.dumps(
        [
            VERSION,
            identity(source.encoder, request.images),
            source.feature,
            total,
            request.k,
            request.projection._asdict(),
        ]
    )
    with divided_work(out, plan, portion, log) as work:
        _require_new(request)  # another command may have made it meanwhile
        pixels = _pixel_sample(request, vectors)
        log(f"thumbnails of {total:,} images")
        pictures = do_batches(
            work,
            "thumbnails",
            total,
            PICTURES,
            lambda batches: _thumbnails(request, vectors, batches),
            pack_thumbnails,
            ProgressLine("reading thumbnails", "images", log),
            together=TOGETHER,
        )
        count = max(min(request.k, total - 1), request.projection.neighbours(total))
        log(neighbours_line(min(request.k, total - 1), count, total))
        parts = do_batches(
            work,
            "neighbours",
            total,
            QUERIES,
            lambda batches: _neighbours(vectors, batches, count, source.device),
            _pack_neighbours,
            ProgressLine("searching neighbours", "images", log),
        )
        origin = None
        if portion.joins:
            near = _joined(map(unpack_columns, work.results("neighbours", parts)))
            made = work.once("map", lambda: _map(request, vectors, near, pixels))
            columns = unpack_columns(made).columns
            origin = _origin(request, vectors, json.loads(columns["figures"].tobytes()))
            _write(request, work, pictures, vectors, near, columns["xy"], origin)
        else:
            work.once("map", lambda: b"")
    return origin


def neighbours_line(kept: int, searched: int, images: int) -> str:
    """Line on the neighbours that are searched: those of the table, and more for the map."""
    more = f" (for the map {searched} are searched)" * (searched > kept)
    return f"{kept} nearest neighbours of each of {images:,} images{more}"


def _require_new(request: EmbedRequest) -> None:
    if request.portion.gather(request.out.exists())[0]:
        raise UserError(f"--out: {request.out} exists; nothing is overwritten")


def _encoded(request: EmbedRequest, source: FeatureSource, images: Images) -> Vectors:
    return encoded(
        source,
        images,
        batch_size=request.batch_size,
        workers=request.workers,
        max_bad=request.max_bad,
        portion=request.portion,
        log=request.log,
    )


def _pixel_sample(request: EmbedRequest, vectors: Vectors) -> Vectors:
    """Pixels, reduced, of the images that are compared: the baseline of the figures."""
    chosen = sampled(len(vectors.samples), request.projection.seed)
    if request.source.is_pixels:
        return Vectors(vectors.values[chosen], vectors.samples[chosen], vectors.labels[chosen])
    manifest = select(request.images.manifest, vectors.samples[chosen])
    return _encoded(request, pixels_of(request.source), request.images.of(manifest))


def _thumbnails(
    request: EmbedRequest, vectors: Vectors, batches: Sequence[range]
) -> Iterator[list[Thumbnail]]:
    data = Thumbnails(request.images, vectors.samples.tolist())
    return load_in_workers(data, batches, request.workers)


def _neighbours(
    vectors: Vectors, batches: Sequence[range], count: int, device: str
) -> Iterator[Neighbours]:
    for batch in batches:
        rows = np.arange(batch.start, batch.stop)
        yield nearest(vectors.values[rows], vectors.values, count, own=rows, device=device)


def _pack_neighbours(batches: list[Neighbours]) -> bytes:
    rows, cosine = (np.concatenate(column) for column in zip(*batches, strict=True))
    return pack_columns({"rows": rows, "cosine": cosine}, [])


def _joined(parts: Iterator[PartResult]) -> Neighbours:
    found = [part.columns for part in parts]
    return Neighbours(
        np.concatenate([one["rows"] for one in found]),
        np.concatenate([one["cosine"] for one in found]),
    )


def _map(request: EmbedRequest, vectors: Vectors, near: Neighbours, pixels: Vectors) -> bytes:
    projection, log = request.projection, request.log
    log(f"map by {projection.method}")
    show = ProgressLine("drawing the map", "iterations", log)
    with busy(f"drawing the map by {projection.method}", log):
        places = project(vectors.values, projection, near, show)
    log("figures: neighbours on the map, and of the vectors, beside PCA")
    with busy("measuring the map", log):
        figures = measure(projection, vectors, places, pixels, request.source.encoder.img_size)
    text = np.frombuffer(json.dumps(figures).encode(), np.uint8)
    return pack_columns({"xy": places, "figures": text}, [])


def _origin(request: EmbedRequest, vectors: Vectors, figures: dict[str, Any]) -> dict[str, Any]:
    source, manifest = request.source, request.images.manifest
    return {
        "model": source.name,
        "model_sha256": source.encoder.sha256,
        "step": source.step,
        "feature": source.feature,
        "pixels": source.encoder.pixels,
        "img_size": list(source.encoder.img_size),
        "crop_pct": source.encoder.crop_pct,
        "data": manifest.fingerprint,
        "classes": list(manifest.class_names),
        "rows": len(vectors.samples),
        "dimensions": vectors.values.shape[1],
        "neighbours": min(request.k, len(vectors.samples) - 1),
        "metric": "1 - cosine",
        **request.projection.settings(len(vectors.samples)),
        "figures": figures,
    }


def _write(
    request: EmbedRequest,
    work: DividedWork,
    parts: int,
    vectors: Vectors,
    near: Neighbours,
    places: npt.NDArray[np.float32],
    origin: dict[str, Any],
) -> None:
    """Write the rows, part by part."""
    manifest, k = request.images.manifest, origin["neighbours"]
    names = manifest.class_names
    first: dict[bytes, int] = {}
    """row of the first image with these pixels"""
    start = 0
    with (
        new_file(request.out) as path,
        TableWriter(path, vectors.values.shape[1], origin) as writer,
    ):
        for part in work.results("thumbnails", parts):
            thumbnails = unpack_thumbnails(part)
            stop = start + len(thumbnails)
            samples, labels = vectors.samples[start:stop], vectors.labels[start:stop]
            distances = (1 - near.cosine[start:stop, :k]).clip(0).astype(np.float32)
            writer.append(
                Rows(
                    key=manifest.keys_of(samples),
                    shard=_shards(manifest, samples),
                    label=np.where(labels == NO_LABEL, ABSENT, labels),
                    class_=[
                        names[one] if 0 <= one < len(names) else None for one in labels.tolist()
                    ],
                    vector=vectors.values[start:stop].astype(np.float32),
                    image=[one.file for one in thumbnails],
                    xy=places[start:stop],
                    ids=near.rows[start:stop, :k],
                    distances=distances,
                    duplicate_of=_earlier([one.digest for one in thumbnails], first, start),
                    outlier=distances.mean(axis=1),
                )
            )
            start = stop


def _earlier(
    digests: Sequence[bytes], first: dict[bytes, int], start: int
) -> npt.NDArray[np.int64]:
    """Row of the first image with the same pixels, for the rows from `start` on; ABSENT: none.

    `first` holds that row for each digest; new ones are added.
    """
    rows = range(start, start + len(digests))
    found = [first.setdefault(digest, row) for digest, row in zip(digests, rows, strict=True)]
    return np.where(np.array(found) < rows, found, ABSENT)


def _shards(manifest: Manifest, samples: npt.NDArray[np.int64]) -> list[str]:
    """Name of the shard of each of `samples`."""
    _, first, which = np.unique(manifest.shard_of(samples), return_index=True, return_inverse=True)
    names = [manifest.shard_name(sample) for sample in samples[first].tolist()]
    return [names[number] for number in which.tolist()]
