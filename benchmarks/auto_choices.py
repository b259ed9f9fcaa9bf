"""`mae pretrain auto` beside a grid of settings and the fixed recipes, at equal compute.

python -m benchmarks.auto_choices prepare --data FOLDER --work WORK [--fashion FILES] [--chosen]
python -m benchmarks.auto_choices run --work WORK [--sets …] [--cases …] [--seeds 0 1 2]
python -m benchmarks.auto_choices table --work WORK

FOLDER holds the folders cifar10, clothing and tiles; digits are scikit-learn's; FILES are the four
of Fashion-MNIST (Debian's package dataset-fashion-mnist).  The rules of auto were set on the images
of `--chosen`; without it other images are taken, on which nothing was set.  Each run has the
same number of counted operations (forward and backward), so that a larger model sees fewer images;
fine-tuning sees TUNED images with every model.  Finished runs are kept in WORK/results.jsonl and
not repeated.
"""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.auto_data import Split, prepare, splits
from benchmarks.auto_table import DEMO, SCHEDULE, table
from mae.base.exit_status import DONE
from mae.base.machine import this_machine
from mae.cli import main as mae
from mae.config.choices import recorded_choices
from mae.config.loading import load_config
from mae.data.opening import open_images
from mae.evaluation.encoders import open_encoder
from mae.evaluation.features import Matrix, encode_images, ranges
from mae.evaluation.pixel_encoders import pixel_encoder
from mae.evaluation.probe import Labels, regularisation_path, standardise
from mae.finetune import main as finetune
from mae.training.auto import AUTO, auto_config
from mae.training.checkpoint.trained import build_objective
from mae.training.flops import flops_per_image

PRETRAINING = 1e12
"""operations of a pretraining"""
TUNED = 6400
"""images seen by a fine-tuning, each time counted"""
CONFIGS = Path(__file__).parents[1] / "configs"
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""C of the probe"""
WARMUP = 0.15
"""share of the epochs, in the grid"""
QUIET = ("log.trackers=[]", "log.panel_every=0", "log.health_every=0", "data.workers=0")


def model(width: int, depth: int, patch: int) -> tuple[str, ...]:
    """Settings of an encoder of this width and depth and a decoder of one block."""
    heads = f"{{embed_dim: {width}, depth: {depth}, num_heads: {width // 32}}}"
    return (
        "model.encoder=vit_tiny_patch16_224",
        f"model.encoder_kwargs={heads}",
        f"model.patch_size={patch}",
        *("model.decoder_embed_dim=64", "model.decoder_depth=1", "model.decoder_num_heads=2"),
    )


class Images(NamedTuple):
    """Knowledge of a data set: image size and patches to try, in pixels, and settings."""

    side: int
    fine: int
    coarse: int
    channels: int = 3
    settings: tuple[str, ...] = ()
    """what headers cannot tell, in all cases"""
    targets: tuple[str, ...] = ()
    """of the grid alone"""


PLAIN = ("model.norm_pix_loss=false",)
SETS = {
    "cifar10": Images(32, 4, 8),
    "clothing": Images(64, 8, 16),
    "fashion": Images(28, 4, 7, 1, targets=PLAIN),
    "digits": Images(16, 2, 4, 1, ("data.flip=false",), PLAIN),
    "tiles": Images(64, 8, 16, 1),
}


def grid(images: Images) -> dict[str, tuple[str, ...]]:
    """Cases of the grid by name: three models (width x depth / patch), two batches."""
    own = ("data.own_statistics=true", "data.crop_pct=1", f"data.img_size={images.side}")
    return {
        f"{width}x{depth}/{patch} by {batch}": (
            *(*own, *images.targets, *model(width, depth, patch)),
            *(f"train.batch_size={batch}", f"optim.lr={lr}"),
        )
        for width, depth, patch in (
            (96, 4, images.fine),
            (96, 4, images.coarse),
            (192, 6, images.coarse),
        )
        for batch, lr in ((32, 1e-3), (128, 2e-3))
    }


class Case(NamedTuple):
    """Pretraining to measure: recipe file and settings, warm-up as a share of the epochs."""

    recipe: str
    settings: tuple[str, ...]
    warmup: float = WARMUP


def case_of(case: str, name: str, split: Split) -> Case:
    """A case on a data set; `NAME by BATCH key=value …`: a case of the grid, changed."""
    images = SETS[name]
    channels = (f"data.in_chans={images.channels}", *images.settings)
    if case == DEMO:
        own = ("data.own_statistics=true", "train.num_processes=0", "data.val=[]")
        return Case(str(CONFIGS / "demo_digits.yaml"), (*channels, *own), 0.25)
    if case in (AUTO, SCHEDULE):
        chosen = chosen_for(split, images.settings)
        if case == AUTO:
            return Case("", chosen, 0.2)
        kept = [one for one in chosen if one.partition("=")[0] not in RATES]
        return Case("", (*kept, "train.batch_size=1024", "optim.blr=1.5e-4"), 0.05)
    base = next(own for own in grid(images) if case.startswith(own))
    changes = case.removeprefix(base).split()
    return Case("", (*channels, *grid(images)[base], *changes))


RATES = ("train.batch_size", "optim.lr")


def chosen_for(split: Split, further: Sequence[str]) -> tuple[str, ...]:
    """Choices of `mae pretrain auto` for the time that PRETRAINING takes, without LENGTH."""
    hours = PRETRAINING / this_machine().speed / 3600
    given = (f"data.train={split.train}", f"auto.hours={hours}", "output=none", *further)
    config = auto_config(given, "mae pretrain")
    chosen = recorded_choices(config.model_dump(mode="json"))
    typed = (f"{key}={json.dumps(value)}" for key, value, _ in chosen if key not in LENGTH)
    return (*typed, *further)


LENGTH = (
    "auto.hours",
    "train.epochs",
    "optim.warmup_epochs",
    "data.workers",
    "train.checkpoint_every",
    *(f"log.{key}" for key in ("panel_every", "health_every", "every")),
)
"""choices that the benchmark sets itself"""


def run(work: Path, name: str, case: str, seed: int, tunes: bool = True) -> dict[str, Any]:
    """Pretrain, probe and fine-tune; the row of results."""
    split, folder = splits(work)[name], work / "runs" / f"{name}-{case}-{seed}".replace("/", "_")
    shutil.rmtree(folder, ignore_errors=True)
    recipe, settings, warmup = case_of(case, name, split)
    own = [f"data.train={split.train}", f"output={folder}/run", f"train.seed={seed}"]
    own += [*settings, *QUIET]
    if not recipe:
        recipe = str(work / "empty.yaml")
        Path(recipe).write_text("{}\n")
    blank = [f"data.{key}={[0.5] * SETS[name].channels}" for key in ("mean", "std")]
    config = load_config(recipe, [*own, *blank, "train.epochs=1000", "optim.warmup_epochs=1"])
    seen = PRETRAINING / flops_per_image(build_objective(config), config.data.in_chans)
    batch = int(min(config.train.batch_size, split.images, max(1, seen)))
    epochs = max(1, round(seen / batch)) * batch / split.images
    own += [f"train.epochs={epochs}", f"optim.warmup_epochs={warmup * epochs}"]
    own += [f"train.batch_size={batch}"] * (batch < config.train.batch_size)
    began = time.process_time()
    assert mae(["pretrain", recipe, *own]) == DONE
    row: dict[str, Any] = {
        "set": name,
        "case": case,
        "seed": seed,
        "steps": round(epochs * split.images / batch),
        "images": round(epochs * split.images),
        "seconds": round(time.process_time() - began),
    }
    row |= probe(folder / "run", split, seed)
    if tunes:
        row["finetuned"] = finetuned(folder, split, seed)
        if case == AUTO:
            row["scratch"] = finetuned(folder, split, seed, "init.from=none")
    return row


def probe(run: Path, split: Split, seed: int) -> dict[str, float]:
    """Test accuracy of a linear probe on mean features, of the run, untrained, and of raw pixels.

    C is chosen on a fifth of the labelled images.
    """
    opened = open_encoder(run)
    config = opened.config
    encoders = {
        "probe": opened.encoder,
        "untrained": opened.untrained()[1],
        "pixels": pixel_encoder(config, opened.encoder.img_size, opened.encoder.crop_pct),
    }
    parts = [open_images([shards], "data.val", config) for shards in (split.labelled, split.test)]
    labels = [np.asarray(part.manifest.label).astype(np.int64) for part in parts]
    found = {}
    for name, encoder in encoders.items():
        key = "pixels" if name == "pixels" else "mean"
        train, test = (
            np.concatenate(
                [
                    batch.vectors[key].astype(np.float32)
                    for batch in encode_images(encoder, part, ranges(len(part.manifest), 128))
                ]
            )
            for part in parts
        )
        found[name] = linear(train, labels[0], test, labels[1], seed)
    return found


def linear(train: Matrix, labels: Labels, test: Matrix, test_labels: Labels, seed: int) -> float:
    """Accuracy of logistic regression whose C is chosen on a fifth of `train`."""
    held = np.random.default_rng(seed).permutation(len(labels)) < len(labels) // 5
    scaled, scaled_held = standardise(train[~held], train[held])
    fits = regularisation_path(scaled, labels[~held], scaled_held, STRENGTHS, 100)
    best = int(np.argmax([(fit.predicted == labels[held]).mean() for fit in fits]))
    scaled, scaled_test = standardise(train, test)
    (fit,) = regularisation_path(scaled, labels, scaled_test, (STRENGTHS[best],), 200)
    return float((fit.predicted == test_labels).mean())


def finetuned(folder: Path, split: Split, seed: int, *settings: str) -> float:
    """Test accuracy of the run, fine-tuned on TUNED images by the defaults of `mae finetune`."""
    epochs, out = TUNED / split.labels, folder / "finetuned"
    shutil.rmtree(out, ignore_errors=True)
    own = [
        f"data.train={split.labelled}",
        f"data.val={split.test}",
        f"output={out}",
        f"train.seed={seed}",
        f"train.epochs={epochs}",
        *QUIET,
        *settings,
    ]
    assert finetune([str(folder / "run"), *own]) == DONE
    return json.loads((out / "evaluation.json").read_text())["accuracy"]


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare the data, run what is missing, or print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.auto_choices", description=__doc__)
    parser.add_argument("action", choices=("prepare", "run", "table"))
    parser.add_argument("--data", type=Path, help="folder of three data sets")
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST's four files")
    parser.add_argument("--chosen", action="store_true", help="images on which the rules were set")
    parser.add_argument("--work", type=Path, required=True, help="folder of prepared data and runs")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--cases", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--probe-only", action="store_true", help="without fine-tuning")
    args = parser.parse_args(argv)
    if args.action == "prepare":
        prepare(args.data, args.work, not args.chosen, args.fashion)
        return 0
    results = args.work / "results.jsonl"
    if args.action == "table":
        print("\n".join(table(results, args.sets)))
        return 0
    done = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    known = {(row["set"], row["case"], row["seed"]) for row in done}
    for seed in args.seeds:
        for name in args.sets:
            for case in args.cases or (AUTO, SCHEDULE, DEMO, *grid(SETS[name])):
                if (name, case, seed) not in known:
                    row = run(args.work, name, case, seed, not args.probe_only)
                    with results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
