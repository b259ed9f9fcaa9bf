"""`mae bench decode`: JPEGs to pixels on the CPU, as training does it, and on a GPU (nvJPEG)."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from mae.bench.ceiling import timed
from mae.bench.pipelines import our_bytes
from mae.bench.rounds import USUAL, Effort
from mae.bench.step import Progress, about, silent
from mae.bench.timing import interleaved, one_thread, ratios, spread
from mae.cores import usable_cores
from mae.data.manifest import build_manifest
from mae.decoding.decode import decode
from mae.errors import UserError

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
    CPU's, which are libjpeg-turbo's.  Raises UserError where the shards cannot be read or hold
    other images than JPEGs of 8 bits.
    """
    manifest = build_manifest(shards, "bench", index_dir)
    taken = list(islice(our_bytes(manifest), min(images, len(manifest))))
    if not all(one[:2] == b"\xff\xd8" for one in taken):
        raise UserError("bench decode: the shards hold other images than JPEGs")
    cores = usable_cores()
    place = torch.device(device)
    with ThreadPoolExecutor(cores) as pool, one_thread():
        works = {
            ONE_CORE: partial(by_cpu, taken),
            f"CPU, {cores} cores": lambda: list(pool.map(one_image, taken)),
        }
        if place.type == "cuda":
            works["GPU, nvJPEG through torchvision"] = partial(by_gpu, taken, batch_size, place)
        tasks = {name: partial(timed, work, 1, place) for name, work in works.items()}
        seconds = interleaved(tasks, effort.rounds, partial(progress, "decoding"))
    rows = {
        name: {
            "images_per_s": spread([len(taken) / one for one in rounds]),
            "ratio": spread(ratios(seconds[ONE_CORE], rounds)),
        }
        for name, rounds in seconds.items()
    }
    found = {**about(device, effort), "images": len(taken), "batch_size": batch_size, "rows": rows}
    if place.type == "cuda":
        found["pixels"] = differences(by_cpu(taken), by_gpu(taken, batch_size, place))
    return found


def one_image(data: bytes) -> Tensor:
    """uint8 [3 h w], as training reads it."""
    return decode(data, "jpg", 3)


def by_cpu(images: Sequence[bytes]) -> list[Tensor]:
    """One after the other."""
    return [one_image(data) for data in images]


def by_gpu(images: Sequence[bytes], batch_size: int, device: torch.device) -> list[Tensor]:
    """In batches; torchvision's decoders are to move to another package and warn of it."""
    from torchvision.io import ImageReadMode, decode_jpeg

    given = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in images]
    found: list[Tensor] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for start in range(0, len(given), batch_size):
            part = given[start : start + batch_size]
            found += decode_jpeg(part, mode=ImageReadMode.RGB, device=device)
    return found


def differences(ours: Sequence[Tensor], others: Sequence[Tensor]) -> dict[str, float]:
    """Mean and largest absolute difference, of 255."""
    far = torch.cat(
        [(a.int() - b.cpu().int()).abs().flatten() for a, b in zip(ours, others, strict=True)]
    )
    return {"mean": far.double().mean().item(), "max": far.max().item()}
