"""`mae denoise` on synthetic fluorescence images of 16 bits, beside classical denoisers.

`python -m benchmarks.denoise_microscopy OUT`: makes noisy and clean TIFFs, trains `noise2void` on
the noisy ones and `dae` on the clean ones, denoises test images with `mae denoise`, and compares
them with non-local means, total variation and BM3D on values stabilised by the generalised Anscombe
transform, whose camera parameters they are given.  The classical denoisers have the best of a grid
of settings, chosen on the test images themselves.  A second `dae` works on files of stabilised
values, too.  Needs scikit-image and tifffile; BM3D is left out where its package is missing.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.microscopy import (
    FILTERS,
    METADATA,
    SCENES,
    Array,
    Picture,
    noise_std,
    picture,
    stabilised,
    tiff,
    unstabilised,
)
from mae.evaluation.confidence import Interval, bootstrap

RECIPES = Path(__file__).parents[1] / "configs" / "autoencoders"
SIDE, TILE = 256, 64
"""sides in pixels of training images, and of the crops of training"""
TEST_SIDE = 300
"""side of the test images, above that of the tiles of `mae denoise`"""
FIRST_TEST = 10_000
"""seed of the first test image"""

KEPT = ("ImageDescription", "XResolution", "YResolution", "ResolutionUnit")
"""tags that results must have from their originals"""
BATCH = 16
SCALE = 1_000
"""levels per unit of stabilised values, in files of these"""


class Row(NamedTuple):
    """A run: its objective, training shard and settings."""

    objective: str
    shard: str
    steps: int
    """those of about 3 CPU minutes"""
    settings: Sequence[str] = ()
    stabilised: bool = False


RUNS: Mapping[str, Row] = {
    "noise2void": Row("noise2void", "noisy", 400, ["model.width=16", "optim.lr=2e-3"]),
    "dae": Row("dae", "clean", 500, ["model.strength={strength:.3g}"]),
    "dae, stabilised": Row(
        "dae", "stabilised", 500, [f"model.strength={SCALE / 65_535:.3g}"], stabilised=True
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run the comparison; prints a table and writes OUT/results.json and OUT/pictures.png."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--images", type=int, default=30, help="training images of each scene")
    parser.add_argument("--test", type=int, default=4, help="test images of each scene")
    parser.add_argument("--steps", type=float, default=1.0, help="multiple of the runs' steps")
    args = parser.parse_args(argv)
    for name in ("skimage", "tifffile"):
        if find_spec(name) is None:
            parser.error(f"needs {name}")
    args.out.mkdir(parents=True)
    strength = write_shards(args.out, args.images)
    tests = write_tests(args.out, args.test)
    clean = [one.clean for one in tests.values()]
    processes = {name: start(args.out, name, strength, args.steps) for name in RUNS}
    made = classical([one.noisy for one in tests.values()], clean)
    costs = {name: wait(name, process) for name, process in processes.items()}
    for name in RUNS:
        made[name] = denoise(args.out, name, list(tests))
    report(args.out, made, clean, costs)
    return 0


# Data


def write_shards(out: Path, count: int) -> float:
    """Shards of noisy images, and of clean tiles of the same scenes; the noise, of 1."""
    stds = []
    with ExitStack() as stack:
        tars = {
            name: stack.enter_context(tarfile.open(out / f"{name}.tar", "w"))
            for name in ("noisy", "clean", "stabilised")
        }
        for kind in SCENES:
            for seed in range(count):
                one = picture(kind, seed, SIDE)
                stds.append(noise_std(one.clean))
                add(tars["noisy"], f"{kind}-{seed:03d}.tif", one.noisy)
                for row in range(0, SIDE, TILE):
                    for column in range(0, SIDE, TILE):
                        tile = one.clean[row : row + TILE, column : column + TILE]
                        name = f"{kind}-{seed:03d}-{row}-{column}.tif"
                        add(tars["clean"], name, rounded(tile))
                        add(tars["stabilised"], name, rounded(SCALE * stabilised(tile)))
    return float(np.sqrt(np.mean(np.square(stds)))) / 65_535


def rounded(values: Array) -> npt.NDArray[np.uint16]:
    """Integers of 16 bits."""
    return values.round().clip(0, 65_535).astype(np.uint16)


def add(tar: tarfile.TarFile, name: str, pixels: npt.NDArray[np.uint16]) -> None:
    """Add a TIFF to a tar."""
    data = tiff(pixels)
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, BytesIO(data))


def write_tests(out: Path, count: int) -> dict[str, Picture]:
    """Test images, written as noisy TIFFs and stabilised ones; name → picture."""
    tests = {
        f"{kind}-{number}.tif": picture(kind, FIRST_TEST + number, TEST_SIDE)
        for kind in SCENES
        for number in range(count)
    }
    for folder in ("test", "test-stabilised"):
        (out / folder).mkdir()
    for name, one in tests.items():
        (out / "test" / name).write_bytes(tiff(one.noisy))
        values = rounded(SCALE * stabilised(one.noisy.astype(np.float64)))
        (out / "test-stabilised" / name).write_bytes(tiff(values))
    return tests


# Methods


def classical(noisy: Sequence[npt.NDArray[np.uint16]], clean: Sequence[Array]) -> dict[str, Any]:
    """Results by method: the noisy images, and those of each filter's best setting."""
    made: dict[str, Any] = {"noisy image": [one.astype(np.float64) for one in noisy]}
    for name, denoiser in FILTERS.items():
        if name == "BM3D" and find_spec("bm3d") is None:
            continue
        trials = {s: [denoiser(one, s) for one in noisy] for s in denoiser.settings}
        best = max(trials, key=lambda s: figures(trials[s], clean)["psnr"].mean())
        made[name] = trials[best]
        print(f"{name}: {best} of {list(trials)}", flush=True)
    return made


def start(out: Path, name: str, strength: float, scale: float) -> subprocess.Popen[str]:
    """Start the training of a run."""
    row = RUNS[name]
    with tarfile.open(out / f"{row.shard}.tar") as tar:
        images = len(tar.getnames())
    words = [
        str(RECIPES / f"{row.objective}.yaml"),
        f"data.train={out / row.shard}.tar",
        f"output={run_of(out, name)}",
        *(["data.mean=[0.5]", "data.std=[0.5]"] if row.objective == "dae" else []),
        "data.own_statistics=true",
        "data.in_chans=1",
        "data.bits=16",
        f"data.img_size={TILE}",
        "data.workers=0",
        "optim.warmup_epochs=0.1",
        f"train.batch_size={BATCH}",
        f"train.epochs={scale * row.steps * BATCH / images:.6g}",
        "train.checkpoint_every=100000",
        "log.trackers=[]",
        "log.panel_every=0",
        "log.every=100",
        *(word.format(strength=strength) for word in row.settings),
    ]
    command = [sys.executable, "-m", "mae.pretrain", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def run_of(out: Path, name: str) -> Path:
    """Folder of a run."""
    return out / name.replace(", ", "-")


def wait(name: str, process: subprocess.Popen[str]) -> float:
    """CPU seconds of a run's training, once it is over."""
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name}: {said.strip()[-500:]}")
    seconds = used.ru_utime + used.ru_stime
    print(f"{name}: trained in {seconds:.0f} CPU seconds", flush=True)
    return seconds


def denoise(out: Path, name: str, files: Sequence[str]) -> list[Array]:
    """Results of `mae denoise` on the test images, in levels; prints its output."""
    import tifffile

    given = out / ("test-stabilised" if RUNS[name].stabilised else "test")
    run = run_of(out, name)
    folder = out / f"denoised-{run.name}"
    words = ["denoise", str(run), str(given), "--out", str(folder), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-m", "mae", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"mae {' '.join(words)}: {done.stderr.strip()[-500:]}")
    print(done.stdout, flush=True)
    for file in files:
        require_metadata(folder / file, given / file)
    made = [tifffile.imread(folder / file).astype(np.float64) for file in files]
    return [unstabilised(one / SCALE) for one in made] if RUNS[name].stabilised else made


def require_metadata(made: Path, original: Path) -> None:
    """Raise AssertionError where a result has other tags, bits or size than its original."""
    import tifffile

    tags = []
    for path in (made, original):
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            tags.append({tag.name: tag.value for tag in page.tags} | {"type": page.dtype})
    for tag in (*KEPT, "ImageWidth", "ImageLength", "type"):
        assert tags[0][tag] == tags[1][tag], (made.name, tag)
    assert all(f"{key}={value}" in tags[0]["ImageDescription"] for key, value in METADATA.items())


# Results


def figures(made: Sequence[Array], clean: Sequence[Array]) -> dict[str, Array]:
    """PSNR in dB and SSIM of each image; their range is that of the clean image."""
    from skimage.metrics import structural_similarity

    psnr, ssim = [], []
    for one, truth in zip(made, clean, strict=True):
        reach = truth.max() - truth.min()
        psnr.append(10 * np.log10(reach**2 / np.square(one - truth).mean()))
        options: dict[str, Any] = {"gaussian_weights": True, "use_sample_covariance": False}
        ssim.append(structural_similarity(one, truth, data_range=reach, **options))
    return {"psnr": np.array(psnr), "ssim": np.array(ssim)}


def report(
    out: Path, made: Mapping[str, list[Array]], clean: list[Array], costs: Mapping[str, float]
) -> None:
    """Print the table, write it and the pictures."""
    found = {name: figures(images, clean) for name, images in made.items()}
    rival = "non-local means"
    print(f"| | PSNR, dB (95 %) | SSIM (95 %) | PSNR beyond {rival} (95 %) |")
    results = {}
    for name, values in found.items():
        psnr, ssim = values["psnr"], values["ssim"]
        ahead = psnr - found[rival]["psnr"]
        cells = [spread(psnr, ".2f"), spread(ssim, ".3f"), spread(ahead, "+.2f")]
        print(f"| {name} | {' | '.join(cells)} |")
        results[name] = {"psnr": psnr.tolist(), "ssim": ssim.tolist(), "cpu": costs.get(name)}
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    shown = ["noisy image", rival, *RUNS]
    draw(out / "pictures.png", [made[name] for name in shown], clean)


def spread(values: Array, form: str) -> str:
    """Mean and its bootstrap interval over images."""
    low, high = bootstrap(values[None], 0) if len(values) > 1 else Interval(np.nan, np.nan)
    return f"{values.mean():{form}} ({low:{form}} to {high:{form}})"


def draw(path: Path, columns: Sequence[Sequence[Array]], clean: Sequence[Array]) -> None:
    """Part of one image of each scene: clean, then the columns; brightness by the clean image."""
    rows, part = [], slice(60, 188)
    for number in range(0, len(clean), len(clean) // len(SCENES)):
        truth = clean[number]
        low, high = truth.min(), np.quantile(truth, 0.999)
        images = [truth, *(column[number] for column in columns)]
        shown = [((one[part, part] - low) / (high - low)).clip(0, 1) ** 0.7 for one in images]
        rows.append(np.hstack([np.pad(one, 2, constant_values=1) for one in shown]))
    Image.fromarray((255 * np.vstack(rows)).astype(np.uint8)).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
