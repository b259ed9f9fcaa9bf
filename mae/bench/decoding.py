"""`mae bench decode`: JPEGs to pixels on the CPU, and by nvImageCodec, as training does both."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from mae.base.device import usable_cores
from mae.base.errors import UserError
from mae.bench.ceiling import timed
from mae.bench.rounds import USUAL, Effort
from mae.bench.step import Progress, about, silent
from mae.bench.stream import our_bytes
from mae.bench.timing import interleaved, one_thread, ratios, spread
from mae.data.manifest import build_manifest
from mae.decoding.decode import decode
from mae.decoding.on_device import JpegDecoder

ONE_CORE = "CPU, one core"


def bench_decoding(
    shards: Sequence[str],
    *,
    images: int = 512,
    batch_size: int = 128,
    index_dir: Path | None = None,
    device: str = "cpu",
    effort: Effort = USUAL,
    progress: Progress = silent,
) -> dict:
    """Decode the same `images` JPEGs everywhere, from memory, in `effort.rounds` rounds.

    The result is ready for JSON; `tables.decoding_table` shows it.  Pixels are compared with the
    CPU's, which are libjpeg-turbo's; where nvImageCodec does not work on `device`, "missing" says
    why.  Raises UserError where the shards cannot be read or hold other images than JPEGs.
    """
    manifest = build_manifest(shards, "bench", index_dir)
    taken = list(islice(our_bytes(manifest), min(images, len(manifest))))
    if not all(one[:2] == b"\xff\xd8" for one in taken):
        raise UserError("bench decode: the shards hold other images than JPEGs")
    cores = usable_cores()
    place = torch.device(device)
    try:
        decoder, missing = JpegDecoder(place, channels=3), ""
    except UserError as error:
        decoder, missing = None, str(error)
    with ThreadPoolExecutor(cores) as pool, one_thread():
        works = {
            ONE_CORE: partial(by_cpu, taken),
            f"CPU, {cores} cores": lambda: list(pool.map(one_image, taken)),
        }
        if decoder:
            works[f"nvImageCodec, {place.type}"] = partial(by_codec, taken, batch_size, decoder)
        tasks = {name: partial(timed, work, 1, place) for name, work in works.items()}
        seconds = interleaved(tasks, effort.rounds, partial(progress, "decoding"))
    rows = {
        name: {
            "images_per_s": spread([len(taken) / one for one in rounds]),
            "ratio": spread(ratios(seconds[ONE_CORE], rounds)),
        }
        for name, rounds in seconds.items()
    }
    pixels = decoder and differences(by_cpu(taken), by_codec(taken, batch_size, decoder))
    return {
        **about(device, effort),
        "images": len(taken),
        "batch_size": batch_size,
        "rows": rows,
        "pixels": pixels,
        "missing": missing,
    }


def one_image(data: bytes) -> Tensor:
    """uint8 [3 h w], as training reads it."""
    return decode(data, "jpg", 3)


def by_cpu(images: Sequence[bytes]) -> list[Tensor]:
    """One after the other."""
    return [one_image(data) for data in images]


def by_codec(images: Sequence[bytes], batch_size: int, decoder: JpegDecoder) -> list[Tensor]:
    """In batches; UserError for one that it cannot decode."""
    found = []
    for start in range(0, len(images), batch_size):
        for image in decoder(images[start : start + batch_size]):
            if image is None:
                raise UserError("bench decode: one of the JPEGs is beyond nvImageCodec")
            found.append(image.permute(2, 0, 1))
    return found


def differences(ours: Sequence[Tensor], others: Sequence[Tensor]) -> dict[str, float]:
    """Mean and largest absolute difference, of 255."""
    far = torch.cat(
        [(a.int() - b.cpu().int()).abs().flatten() for a, b in zip(ours, others, strict=True)]
    )
    return {"mean": far.double().mean().item(), "max": far.max().item()}
