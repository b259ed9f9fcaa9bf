"""Denoising without clean images beside a supervised denoiser and non-local means.

`python -m benchmarks.denoising --photographs SHARDS --kodak FOLDER`: photographs are reduced, noise
is added, and both are written as PNG shards; `noise2void` learns from the noisy ones alone,
`noise2noise` from two noisy ones of each, and `dae` from the clean ones.  All denoise the same
noisy crops of the Kodak images, as does non-local means with the best of a few strengths on them.
Needs scikit-image.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.autoencoders.denoising import non_local_means
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.decoding.decode import decode
from mae.objectives.autoencoders.implementation import psnr_of
from mae.training.checkpoint.trained import load_pretrained

RECIPES = Path(__file__).parents[1] / "configs" / "autoencoders"
SIGMA = 25
"""standard deviation of the noise, of 255; noisy pixels are rounded and clipped"""
SHORT_SIDE = 160
"""short side of the reduced photographs, in pixels"""
CROP = 256
"""side of the crops of the Kodak images"""
STRENGTHS = (0.4, 0.5, 0.6, 0.7, 0.8)
"""strengths of non-local means, in units of the noise"""

ROWS = {
    "noise2void": ("noise2void", "noisy", []),
    "noise2void/neighbour": ("noise2void", "noisy", ["model.replacement=neighbour"]),
    "noise2noise": ("noise2void", "pairs", ["model.method=noise2noise"]),
    "clean targets": ("noise2void", "clean-pairs", ["model.method=noise2noise"]),
    "dae": ("dae", "clean", [f"model.strength={SIGMA / 255:.4f}"]),
}
"""row → recipe, shards, overrides"""


def main(argv: list[str] | None = None) -> int:
    """Run the comparison; prints a table and writes OUT as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photographs", required=True, nargs="+", help="training shards")
    parser.add_argument("--kodak", required=True, type=Path, help="folder of the Kodak images")
    parser.add_argument("--count", type=int, default=1500, help="number of photographs")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", nargs="*", default=[], help="section.key=value of all runs")
    parser.add_argument("--out", type=Path, default=Path("denoising.json"))
    args = parser.parse_args(argv)
    if find_spec("skimage") is None:
        parser.error("needs scikit-image: pip install scikit-image")
    noisy, clean = kodak_crops(args.kodak)
    results: dict[str, Any] = {"baselines": baselines(noisy, clean)}
    print(line("baselines", results["baselines"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(args.photographs, args.count, Path(folder))
        for row in args.rows:
            results[row] = []
            for seed in range(args.seeds):
                run = Path(folder) / f"{row.replace('/', '-')}-{seed}"
                train(row, shards, run, seed, args.settings)
                results[row].append(denoised(run, noisy, clean))
                print(line(f"{row}, seed {seed}", results[row][-1]), flush=True)
                args.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def line(name: str, values: dict[str, float]) -> str:
    """Name, and values in dB."""
    return f"{name:24} " + ", ".join(f"{key} {value:.2f}" for key, value in values.items())


# Data


def with_noise(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Pixels with noise as a file of 8 bits holds them: rounded and clipped."""
    noisy = pixels + generator.normal(0, SIGMA, pixels.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)


def reduced(patterns: list[str], count: int) -> Iterator[np.ndarray]:
    """Photographs [h w 3] of SHORT_SIDE pixels, by area averaging."""
    images = Images(build_manifest(patterns, "--photographs"), 3)
    for number in range(min(count, len(images.manifest))):
        photograph = Image.fromarray(images[number].permute(1, 2, 0).contiguous().numpy())
        scale = SHORT_SIDE / min(photograph.size)
        size = round(scale * photograph.width), round(scale * photograph.height)
        yield np.asarray(photograph.resize(size, Image.Resampling.BOX))


def write_shards(patterns: list[str], count: int, folder: Path) -> dict[str, Path]:
    """Shards of the same reduced photographs, clean and noisy, single and in pairs."""
    paths = {name: folder / f"{name}.tar" for name in ("clean", "noisy", "pairs", "clean-pairs")}
    with ExitStack() as stack:
        tars = {name: stack.enter_context(tarfile.open(path, "w")) for name, path in paths.items()}
        for number, pixels in enumerate(reduced(patterns, count)):
            generator = np.random.default_rng(number)
            first, second = with_noise(pixels, generator), with_noise(pixels, generator)
            for name, end, one in (
                ("clean", "", pixels),
                ("noisy", "", first),
                ("pairs", ".a", first),
                ("pairs", ".b", second),
                ("clean-pairs", ".a", first),
                ("clean-pairs", ".b", pixels),
            ):
                add_png(tars[name], f"{number:05d}{end}.png", one)
    return paths


def add_png(tar: tarfile.TarFile, name: str, pixels: np.ndarray) -> None:
    """Add an image to a tar."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    member = tarfile.TarInfo(name)
    member.size = file.tell()
    file.seek(0)
    tar.addfile(member, file)


def kodak_crops(folder: Path) -> tuple[Tensor, Tensor]:
    """Centres of the Kodak images with noise, and without: uint8 [n 3 CROP CROP]."""
    noisy, clean = [], []
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        image = decode(path.read_bytes(), "png", 3)
        top, left = (image.shape[1] - CROP) // 2, (image.shape[2] - CROP) // 2
        crop = image[:, top : top + CROP, left : left + CROP].contiguous()
        clean.append(crop)
        made = with_noise(crop.numpy(), np.random.default_rng(10_000 + number))
        noisy.append(torch.from_numpy(made))
    return torch.stack(noisy), torch.stack(clean)


# Methods


def psnr(made: Tensor, clean: Tensor) -> float:
    """Mean PSNR in dB of images in [0, 1] against uint8 images."""
    return psnr_of(made.clamp(0, 1), clean.float() / 255).mean().item()


def baselines(noisy: Tensor, clean: Tensor) -> dict[str, float]:
    """PSNR of the noisy crops, and of non-local means at each strength; the best is the last."""
    found = {"noisy": psnr(noisy.float() / 255, clean)}
    pixels = noisy.permute(0, 2, 3, 1).numpy() / np.float32(255)
    filters = {}
    for strength in STRENGTHS:
        made = np.stack([non_local_means(one, strength, SIGMA / 255) for one in pixels])
        filters[strength] = psnr(torch.from_numpy(made).permute(0, 3, 1, 2).float(), clean)
    found |= {f"non-local means {strength:g}": value for strength, value in filters.items()}
    return found | {"best": max(filters.values())}


def train(row: str, shards: dict[str, Path], run: Path, seed: int, settings: list[str]) -> None:
    """Train one run in a process of its own."""
    recipe, name, overrides = ROWS[row]
    words = [
        str(RECIPES / f"{recipe}.yaml"),
        f"data.train={shards[name]}",
        f"output={run}",
        f"train.seed={seed}",
        "data.img_size=64",
        "data.workers=0",
        "log.trackers=[]",
        "log.panel_every=0",
        "log.every=200",
        "train.checkpoint_every=100000",
        *(["data.scale=[0.12,0.12]"] if recipe == "dae" else []),
        *overrides,
        *settings,
    ]
    command = [sys.executable, "-m", "mae.pretrain", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{row}, seed {seed}: {done.stderr.strip() or done.stdout[-500:]}")


@torch.no_grad()
def denoised(run: Path, noisy: Tensor, clean: Tensor) -> dict[str, float]:
    """PSNR of the crops that a run denoises, and in one pass where results take several."""
    _, model, _ = load_pretrained(run)
    denoise: Callable[[Tensor], Tensor] = getattr(model, "denoise")  # noqa: B009
    ways = {"psnr": denoise}
    if plain := getattr(model, "denoise_plain", None):
        normalize = getattr(model, "normalize")  # noqa: B009
        ways["one pass"] = partial(lambda plain, images: plain(normalize(images)), plain)
    return {
        name: psnr(torch.cat([way(part) for part in noisy.split(4)]), clean)
        for name, way in ways.items()
    }


if __name__ == "__main__":
    sys.exit(main())
