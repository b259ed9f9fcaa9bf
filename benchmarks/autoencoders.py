"""Autoencoders beside their baselines, with several seeds.

`python -m benchmarks.autoencoders DATA --train SHARDS --test SHARDS`: trains each member by its
recipe, shrunk to DATA, and evaluates it on the test images beside baselines, whose settings are
the best of a small grid on these same test images.  Needs scikit-image for the classical
denoisers.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.config.loading import load_config
from mae.data.training_data import open_images
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.objectives.autoencoders.baselines import Pca, fit_pca
from mae.objectives.autoencoders.corruption import Corruption
from mae.objectives.autoencoders.implementation import psnr_of

RECIPES = Path(__file__).parents[1] / "configs" / "autoencoders"

FITTED = 4000
"""number of training images that baselines are fitted on"""


class Data(NamedTuple):
    """Settings of a data set, and of the members on it."""

    settings: list[str]
    members: dict[str, list[str]]
    """member → overrides of its recipe"""
    tested: int
    """number of test images"""


DIGITS = [
    "data.img_size=16",
    "data.in_chans=1",
    "data.mean=[0.305]",
    "data.std=[0.376]",
    "data.flip=false",
    "train.batch_size=32",
    "train.epochs=15",
]
SETS = {
    "digits": Data(
        DIGITS,
        {
            "ae": ["model.latent_dim=16", "train.epochs=20"],
            "dae": ["model.strength=0.196"],
            "sparse": ["model.latent_dim=128", "model.k=8", "model.aux_k=32", "train.epochs=20"],
            "vae": ["model.latent_dim=16", "train.epochs=20"],
            "vqvae": ["model.codebook_size=128"],
            "fsq": ["model.levels=[5,5,5]", "model.depth=1"],
        },
        500,
    ),
    "cifar10": Data(
        ["train.epochs=2"],
        {
            "ae": ["model.latent_dim=64"],
            "dae": ["model.strength=0.098"],
            "sparse": [],
            "vae": ["model.latent_dim=64"],
            "vqvae": [],
            "fsq": ["model.depth=1"],
        },
        1000,
    ),
    "clothing": Data(
        [
            "data.img_size=64",
            "data.mean=[0.6,0.58,0.56]",
            "data.std=[0.26,0.26,0.27]",
            "train.epochs=4",
            "train.batch_size=32",
        ],
        {
            "ae": ["model.latent_dim=64", "model.stages=3"],
            "dae": ["model.strength=0.098"],
            "vqvae": ["model.stages=3"],
        },
        372,
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run the comparison; prints a table and writes OUT as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", choices=SETS)
    parser.add_argument("--train", required=True, nargs="+", help="training shards")
    parser.add_argument("--test", required=True, nargs="+", help="test shards")
    parser.add_argument("--members", nargs="+", help="members (default: all of DATA)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kodak", help="folder of the Kodak images, for the denoiser")
    parser.add_argument("--out", type=Path, default=Path("autoencoders.json"))
    args = parser.parse_args(argv)
    if find_spec("skimage") is None:
        parser.error("needs scikit-image: pip install scikit-image")
    data = SETS[args.data]
    members = args.members or list(data.members)
    results: dict[str, Any] = {}
    for member in members:
        rows = []
        for seed in range(args.seeds):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(train(member, data, args.train, args.test, seed, Path(folder) / "run"))
                if args.kodak and member == "dae":
                    rows[-1]["kodak"] = denoised_kodak(Path(folder) / "run", Path(args.kodak))
        baselines = tuned_baselines(member, data, args.train, args.test, rows[0])
        results[member] = {"runs": rows, "baselines": baselines}
        print(summary(member, rows, baselines), flush=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def command_line(
    member: str, data: Data, train: list[str], test: list[str], seed: int, run: Path
) -> list[str]:
    """Arguments of `mae pretrain` for one run."""
    return [
        str(RECIPES / f"{member}.yaml"),
        *data.settings,
        *data.members[member],
        f"data.train={json.dumps(train)}",
        f"data.val={json.dumps(test)}",
        f"output={run}",
        f"train.seed={seed}",
        "data.workers=0",
        f"log.health_images={data.tested}",
        "log.health_every=1000",
        "log.panel_every=0",
        "log.every=200",
        "log.wandb=false",
        "train.checkpoint_every=100000",
    ]


def train(
    member: str, data: Data, shards: list[str], test: list[str], seed: int, run: Path
) -> dict[str, Any]:
    """Train one run in a process of its own; its last evaluation on the test images."""
    words = command_line(member, data, shards, test, seed, run)
    done = subprocess.run(
        [sys.executable, "-m", "mae.pretrain", *words], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{member}, seed {seed}: {done.stderr.strip() or done.stdout[-500:]}")
    return json.loads((run / "health.jsonl").read_text().splitlines()[-1])


class Sets(NamedTuple):
    """Training and test images in [0, 1], [n c h w]."""

    train: Tensor
    test: Tensor


def load_sets(member: str, data: Data, train: list[str], test: list[str]) -> Sets:
    """Centred views of the first training images and of the test images."""
    words = command_line(member, data, train, test, 0, Path("run"))
    config = load_config(words[0], words[1:])
    assert config.data.img_size is not None

    def load(shards: list[str], key: str, limit: int) -> Tensor:
        images = open_images(shards, key, config)
        views = CentredViews(images, config.data.img_size, config.data.crop_pct)
        step = max(1, len(images.manifest) // limit)
        numbers = range(0, min(len(images.manifest), limit * step), step)
        return stack([views.view(number) for number in numbers]).float() / 255

    return Sets(load(train, "data.train", FITTED), load(test, "data.val", data.tested))


def image_shape(images: Tensor) -> tuple[int, int, int]:
    """Channels, height and width."""
    _, channels, height, width = images.shape
    return channels, height, width


def mean_psnr(made: Tensor, truth: Tensor) -> float:
    """Mean over images of the PSNR in dB."""
    return psnr_of(made.clamp(0, 1), truth).mean().item()


def tuned_baselines(
    member: str, data: Data, train: list[str], test: list[str], row: dict[str, Any]
) -> dict[str, float]:
    """PSNR of each baseline; tuned ones with the best setting on the test images."""
    found = {"mean image": row["psnr_mean_image"]}
    if member in ("ae", "vae", "sparse"):
        return found | {"PCA": row["psnr_pca"]}
    sets = load_sets(member, data, train, test)
    if member == "dae":
        overrides = dict(word.split("=") for word in data.members["dae"])
        return denoisers(sets, float(overrides["model.strength"])) | {"noisy": row["psnr_noisy"]}
    bits = row["bits_per_pixel"] * sets.test.shape[2] * sets.test.shape[3]
    return found | coders(sets, bits)


def denoisers(sets: Sets, sigma: float) -> dict[str, float]:
    """PCA, total variation and non-local means on the noisy test images."""
    from skimage.restoration import denoise_tv_chambolle

    corruption = Corruption("gaussian", sigma)
    seeds = torch.arange(len(sets.test)) * 7919 + 1
    noisy = corruption.apply(sets.test, corruption.draw(seeds, image_shape(sets.test)))

    def each(filter_image: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        arrays = noisy.permute(0, 2, 3, 1).numpy()
        made = np.stack([filter_image(array).reshape(array.shape) for array in arrays])
        return torch.from_numpy(made).permute(0, 3, 1, 2).float()

    size = sets.test.shape[2], sets.test.shape[3]
    wide = min(len(sets.train), sets.test[0].numel())
    widest = fit_pca(sets.train, min(512, wide), size)
    pca = [
        mean_psnr(Pca(widest.mean, widest.basis[:count], size).reconstruct(noisy), sets.test)
        for count in (8, 16, 32, 64, 128, 256, 512)
        if count <= len(widest.basis)
    ]
    tv = [
        mean_psnr(each(lambda x, w=w: denoise_tv_chambolle(x, w, channel_axis=-1)), sets.test)
        for w in (0.05, 0.08, 0.12, 0.2)
    ]
    nlm = [
        mean_psnr(
            each(lambda x, h=h: non_local_means(x, h, sigma)),
            sets.test,
        )
        for h in (0.4, 0.6, 0.9)
    ]
    return {"PCA": max(pca), "total variation": max(tv), "non-local means": max(nlm)}


def non_local_means(image: np.ndarray, h: float, sigma: float) -> np.ndarray:
    """Denoised image [h w c]; `h` in units of the noise's standard deviation."""
    from skimage.restoration import denoise_nl_means

    return denoise_nl_means(
        image, patch_size=3, patch_distance=5, h=h * sigma, sigma=sigma, channel_axis=-1
    )


def coders(sets: Sets, bits: float) -> dict[str, float]:
    """PCA with a uniform quantiser, and JPEG, with at most `bits` per image."""
    size = sets.test.shape[2], sets.test.shape[3]
    best = 0.0
    for per_number in range(2, 9):
        count = int(bits // per_number)
        if count < 1:
            continue
        pca = fit_pca(sets.train, count, size)
        fitted = (sets.train.permute(0, 2, 3, 1).flatten(1) - pca.mean) @ pca.basis.T
        numbers = (sets.test.permute(0, 2, 3, 1).flatten(1) - pca.mean) @ pca.basis.T
        for width in (2.0, 2.5, 3.0, 4.0):
            span = width * fitted.std(dim=0)
            step = 2 * span / (2**per_number - 1)
            levels = ((numbers.clamp(-span, span) + span) / step).round()
            made = (levels * step - span) @ pca.basis + pca.mean
            images = made.unflatten(1, (*size, -1)).permute(0, 3, 1, 2)
            best = max(best, mean_psnr(images, sets.test))
    found = {"PCA and quantiser": best}
    jpeg = [best_jpeg(image, bits) for image in sets.test]
    return found | ({"JPEG": fmean(jpeg)} if jpeg else {})


def best_jpeg(image: Tensor, bits: float) -> float:
    """PSNR of the best JPEG, headers not counted, with at most `bits`; of the mean if none fits."""
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy().squeeze()
    headers = scan_start(encode_jpeg(pixels, 50))
    best = mean_psnr(image.mean(dim=(1, 2), keepdim=True).expand_as(image)[None], image[None])
    for quality in (1, 2, 3, 5, 8, 12, 18, 25, 35, 50, 65, 80, 90):
        data = encode_jpeg(pixels, quality)
        if 8 * (len(data) - headers) > bits:
            break
        made = torch.from_numpy(np.atleast_3d(np.array(Image.open(io.BytesIO(data)))).copy())
        best = max(best, mean_psnr(made.permute(2, 0, 1)[None].float() / 255, image[None]))
    return best


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """JPEG file of an image, with optimised Huffman tables."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def scan_start(data: bytes) -> int:
    """Bytes before the compressed data of a JPEG file."""
    return data.index(b"\xff\xda")


def denoised_kodak(run: Path, folder: Path) -> dict[str, float]:
    """PSNR on whole Kodak photographs: a trained denoiser, the noisy ones, non-local means.

    Non-local means with the better of two strengths.
    """
    from mae.objectives.dae.model import DenoisingAutoencoder
    from mae.training.checkpoint.trained import load_pretrained

    _, model, _ = load_pretrained(run)
    assert isinstance(model, DenoisingAutoencoder) and model.corruption is not None
    rows = list(kodak_rows(model, folder))
    means = {name: fmean(row[name] for row in rows) for name in rows[0]}
    filters = {name: value for name, value in means.items() if name not in ("model", "noisy")}
    best = max(filters, key=lambda name: filters[name])
    return {"model": means["model"], "noisy": means["noisy"], best: means[best]}


@torch.no_grad()
def kodak_rows(model: Any, folder: Path) -> Iterator[dict[str, float]]:
    """PSNR of each photograph."""
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        array = np.array(Image.open(path).convert("RGB"))
        truth = torch.from_numpy(array).permute(2, 0, 1)[None]
        unit = truth.float() / 255
        seed = torch.tensor([7919 * number + 1])
        noise = model.corruption.draw(seed, image_shape(truth))
        noisy = model.corruption.apply(unit, noise)
        normalized = noisy * (model.pixel_scale * model.white) + model.pixel_shift
        row = {"model": mean_psnr(model.denoise(normalized), unit), "noisy": mean_psnr(noisy, unit)}
        pixels = noisy[0].permute(1, 2, 0).numpy()
        for h in (0.6, 0.9):
            made = non_local_means(pixels, h, model.corruption.strength)
            shown = torch.from_numpy(made).permute(2, 0, 1)[None].float()
            row[f"non-local means, h = {h} sigma"] = mean_psnr(shown, unit)
        yield row


def summary(member: str, rows: list[dict[str, Any]], baselines: dict[str, float]) -> str:
    """One line: PSNR of the runs, and of the baselines."""
    values = " ".join(f"{row['psnr']:.2f}" for row in rows)
    others = ", ".join(f"{name} {value:.2f}" for name, value in baselines.items())
    more = {key: [round(row[key], 3) for row in rows if key in row] for key in EXTRA}
    shown = "".join(f"; {key} {found}" for key, found in more.items() if found)
    kodak = [row["kodak"] for row in rows if "kodak" in row]
    return f"{member:8} PSNR {values} dB | {others}{shown}" + (f"; Kodak {kodak}" if kodak else "")


EXTRA = (
    "usage",
    "perplexity",
    "bits_per_pixel",
    "active",
    "active_latents",
    "dead_latents",
    "kl_nats",
    "bits",
    "probe",
)
"""further figures of health.jsonl that are shown"""


if __name__ == "__main__":
    sys.exit(main())
