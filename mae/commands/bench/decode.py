"""`mae bench decode`: speed of JPEG decoding on the CPU and by nvImageCodec, and their pixels."""

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from mae.base.device import choose_device, usable_cores
from mae.base.errors import UserError
from mae.commands.bench.pipeline import our_bytes
from mae.commands.bench.rounds import USUAL, Effort, Progress, about, show_progress, silent
from mae.commands.bench.tables import about_lines, markdown, spread_of, write_result
from mae.commands.bench.timing import interleaved, one_thread, ratios, seconds_per_call, spread
from mae.data.indexing import build_manifest
from mae.decoding.decode import decode
from mae.decoding.on_device import JpegDecoder

ONE_CORE = "CPU, one core"


def run(args: argparse.Namespace) -> None:
    """Run `mae bench decode`."""
    result = bench_decoding(
        args.shards,
        images=64 if args.quick else args.images,
        batch_size=args.batch_size,
        device=choose_device(args.device),
        effort=Effort(rounds=2 if args.quick else args.rounds),
        progress=show_progress,
    )
    write_result(args.out, result, decoding_table(result))


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
    """Decode the same JPEGs with each decoder in turn, from memory, in `effort.rounds` rounds.

    nvImageCodec's pixels are compared with the CPU's (libjpeg-turbo's); where it does not work on
    `device`, "missing" is the reason.  The result can be written as JSON.  Raises UserError where
    the shards cannot be read or hold other images than JPEGs.
    """
    manifest = build_manifest(shards, "bench", index_dir)
    files = list(islice(our_bytes(manifest), min(images, len(manifest))))
    if not all(data[:2] == b"\xff\xd8" for data in files):
        raise UserError("bench decode: the shards hold other images than JPEGs")
    cores = usable_cores()
    place = torch.device(device)
    try:
        decoder, missing = JpegDecoder(place, channels=3), ""
    except UserError as error:
        decoder, missing = None, str(error)
    with ThreadPoolExecutor(cores) as pool, one_thread():
        works = {
            ONE_CORE: partial(decode_on_cpu, files),
            f"CPU, {cores} cores": lambda: list(pool.map(decode_jpeg, files)),
        }
        if decoder:
            works[f"nvImageCodec, {place.type}"] = partial(
                decode_by_codec, files, batch_size, decoder
            )
        tasks = {name: partial(seconds_per_call, work, 1, place) for name, work in works.items()}
        seconds = interleaved(tasks, effort.rounds, partial(progress, "decoding"))
    rows = {
        name: {
            "images_per_s": spread([len(files) / one for one in rounds]),
            "ratio": spread(ratios(seconds[ONE_CORE], rounds)),
        }
        for name, rounds in seconds.items()
    }
    pixels = decoder and pixel_difference(
        decode_on_cpu(files), decode_by_codec(files, batch_size, decoder)
    )
    return {
        **about(device, effort),
        "images": len(files),
        "batch_size": batch_size,
        "rows": rows,
        "pixels": pixels,
        "missing": missing,
    }


def decode_jpeg(data: bytes) -> Tensor:
    """Decode one JPEG as training does, uint8 [3 h w]."""
    return decode(data, "jpg", 3)


def decode_on_cpu(files: Sequence[bytes]) -> list[Tensor]:
    """Decode JPEGs one after the other, uint8 [3 h w] each."""
    return [decode_jpeg(data) for data in files]


def decode_by_codec(files: Sequence[bytes], batch_size: int, decoder: JpegDecoder) -> list[Tensor]:
    """Decode JPEGs in batches by nvImageCodec, uint8 [3 h w] each.

    Raises UserError where it cannot decode one of them.
    """
    images = []
    for start in range(0, len(files), batch_size):
        for image in decoder(files[start : start + batch_size]):
            if image is None:
                raise UserError("bench decode: nvImageCodec cannot decode one of the JPEGs")
            images.append(image.permute(2, 0, 1))
    return images


def pixel_difference(ours: Sequence[Tensor], others: Sequence[Tensor]) -> dict[str, float]:
    """Mean and largest absolute difference of pixels in [0, 255]."""
    difference = torch.cat(
        [(a.int() - b.cpu().int()).abs().flatten() for a, b in zip(ours, others, strict=True)]
    )
    return {"mean": difference.double().mean().item(), "max": difference.max().item()}


def decoding_table(result: dict) -> str:
    """Markdown table of images per second of each decoder, and nvImageCodec's pixel difference."""
    rows = [
        [
            name,
            f"{row['images_per_s']['median']:,.4g}",
            spread_of(row["ratio"]),
        ]
        for name, row in result["rows"].items()
    ]
    lines = [*about_lines(result), "", f"{result['images']:,} JPEGs to pixels", ""]
    lines += markdown(["", "images/s", "times one core"], rows)
    if result["missing"]:
        return "\n".join([*lines, "", f"Not measured: {result['missing']}"])
    mean, largest = result["pixels"]["mean"], result["pixels"]["max"]
    difference = f"mean {mean:.3f}, largest {largest:.0f}"
    return "\n".join([*lines, "", f"Difference of nvImageCodec's pixels, of 255: {difference}"])
