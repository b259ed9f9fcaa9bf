"""Encoders of equal size on CIFAR-10 at equal computation: pretraining, probe, fine-tuning.

    python -m benchmarks.encoders DATA OUT [--seeds 3] [--epochs 30]

DATA holds `train-*.tar` and `test-*.tar`, of 5,000 images each.  Each encoder is pretrained for as
many epochs as cost the operations of the plain one's, probed on the test images (half of them train
the probe), and fine-tuned on 10,000 labels.  Prints a Markdown table of means ± standard deviations
over the seeds, and writes OUT/encoders.json.  The same command goes on where it was stopped.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mae.base.files import read_json, write_json
from mae.base.rows import read_rows
from mae.config.loading import load_config
from mae.finetune import main as finetune
from mae.objectives.mae.model import build_mae
from mae.pretrain import main as pretrain
from mae.training.flops import flops_per_image

CONFIGS = Path(__file__).parents[1] / "configs"
PLAIN = "plain"
SIZES = "embed_dim: 128, depth: 6, num_heads: 4"
ENCODERS: Mapping[str, Sequence[str]] = {
    PLAIN: ("vit_tiny_patch16_224", SIZES),
    "plain, 4 registers": ("vit_tiny_patch16_224", f"{SIZES}, reg_tokens: 4"),
    "rotary, 4 registers": ("vit_small_patch16_dinov3_qkvb", f"{SIZES}, init_values: 1.0"),
    "mixed rotary, 4 registers": (
        "vit_small_patch16_rope_mixed_224",
        f"{SIZES}, num_reg_tokens: 4, init_values: 1.0",
    ),
    # Mask units of 4 px, so that the first of three stages has a token for each pixel.
    "Hiera, 60 % hidden": (
        "hiera_tiny_224",
        "embed_dim: 38, num_heads: 1, stages: [1, 1, 4]",
        "model.mask_ratio=0.6",
    ),
    "Hiera, 75 % hidden": ("hiera_tiny_224", "embed_dim: 38, num_heads: 1, stages: [1, 1, 4]"),
}
"""name → timm's name, arguments, other settings; all with patches of 4 pixels"""

PRETRAINING = """
    data.flip=true model.decoder_embed_dim=64 model.decoder_depth=2 model.decoder_num_heads=4
    optim.lr=1.5e-3 train.batch_size=256 log.health_every=1000
    log.health_images=10000
""".split()
FINETUNING = """
    optim.lr=1e-3 data.flip=true log.health_every=1000 finetune.global_pool=avg
""".split()
COMMON = ["data.workers=0", "log.trackers=[]", "log.panel_every=0", "model.patch_size=4"]

COLUMNS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "r2": ("R² of hidden patches", lambda value: f"{value:.3f}"),
    "probe": ("probe", lambda value: f"{100 * value:.1f}"),
    "knn": ("k-NN", lambda value: f"{100 * value:.1f}"),
    "finetuned": ("fine-tuned on 10,000", lambda value: f"{100 * value:.1f}"),
    "minutes": ("minutes", lambda value: f"{value:.1f}"),
}


def main(argv: list[str] | None = None) -> int:
    """Run all encoders with all seeds; print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encoders", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("data", type=Path, help="folder of train-*.tar and test-*.tar")
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=30, help="of the plain encoder")
    parser.add_argument("--finetune-epochs", type=float, default=20)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=list(ENCODERS))
    parser.add_argument("--settings", nargs="*", default=[], help="further settings of all runs")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    costs = {name: cost(name) for name in {PLAIN, *args.encoders}}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in args.encoders}
    for seed in range(args.seeds):
        for name in args.encoders:
            epochs = args.epochs * costs[PLAIN]["gflop"] / costs[name]["gflop"]
            rows[name].append(measured(args, name, seed, epochs))
            found = {"costs": costs, "rows": rows, "settings": vars(args) | {"data": "", "out": ""}}
            (args.out / "encoders.json").write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(table(rows, costs)))
    return 0


def model_settings(name: str) -> list[str]:
    """Settings of an encoder in `ENCODERS`."""
    encoder, arguments = ENCODERS[name][:2]
    return [f"model.encoder={encoder}", f"model.encoder_kwargs={{{arguments}}}"]


def duration(epochs: float) -> list[str]:
    """Settings of a training of so many epochs, a tenth of them warm-up."""
    return [f"train.epochs={epochs:g}", f"optim.warmup_epochs={epochs / 10:g}"]


def cost(name: str) -> dict[str, float]:
    """Millions of the encoder's parameters, and GFLOP of a step for one image."""
    words = [*PRETRAINING, *COMMON, *model_settings(name), *ENCODERS[name][2:], *duration(1)]
    model = build_mae(load_config(CONFIGS / "vit_tiny_patch2_cifar10.yaml", words))
    millions = sum(one.numel() for one in model.encoder.parameters()) / 1e6
    return {"millions": millions, "gflop": flops_per_image(model, 3) / 1e9}


def measured(args: argparse.Namespace, name: str, seed: int, epochs: float) -> dict[str, Any]:
    """Figures of one encoder and seed."""
    stem = f"{re.sub(r'[^a-zA-Z0-9]+', '-', name).strip('-')}-{seed}"
    pretrained, tuned = args.out / f"{stem}-pretrained", args.out / f"{stem}-finetuned"
    common = [*COMMON, *model_settings(name), f"train.seed={seed}", *args.settings]
    data, test = args.data, f"data.val={args.data}/test-*.tar"
    file = args.out / f"{stem}.json"
    with timed(file, pretrained, tuned) as spent:
        run(
            pretrain,
            CONFIGS / "vit_tiny_patch2_cifar10.yaml",
            *PRETRAINING,
            *common,
            *ENCODERS[name][2:],
            *duration(epochs),
            f"data.train={data}/train-*.tar",
            test,
            f"output={pretrained}",
        )
        run(
            finetune,
            CONFIGS / "vit_tiny_patch2_cifar10_finetune.yaml",
            *FINETUNING,
            *common,
            *duration(args.finetune_epochs),
            f"data.train={data}/train-{{000000..000001}}.tar",
            test,
            f"init.from={pretrained}",
            f"output={tuned}",
        )
    health = read_rows(pretrained / "health.jsonl").rows[-1]
    accuracy = read_rows(tuned / "health.jsonl").rows[-1]["accuracy"]
    row = {key: health[key] for key in ("r2", "probe", "knn", "rankme")}
    row |= {"finetuned": accuracy, **spent, "epochs": epochs, "seed": seed}
    write_json(file, row)
    return row


@contextmanager
def timed(file: Path, *runs: Path) -> Iterator[dict[str, float]]:
    """Context that adds the minutes in which `runs` were trained to those in `file`.

    Yields what it holds at the end: `minutes`.  It is written also where the runs are stopped.
    """

    def trained() -> list[list[bytes]]:
        return [read_rows(one / "metrics.jsonl").lines for one in runs]

    before, stood, began = read_json(file), trained(), time.monotonic()
    spent = {"minutes": float(before.get("minutes", 0.0))}
    try:
        yield spent
    finally:
        if trained() != stood:  # finished runs take a moment to say so
            spent["minutes"] += (time.monotonic() - began) / 60
        write_json(file, {**before, **spent})


def run(command: Callable[[list[str]], int], *words: object) -> None:
    """Run a command; exits with its code where it fails."""
    if code := command([str(word) for word in words]):
        sys.exit(code)


def table(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], costs: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Markdown table: a row for each encoder, mean ± standard deviation over the seeds."""
    titles = [title for title, _ in COLUMNS.values()]
    lines = [
        f"| encoder | M parameters | MFLOP an image | epochs | {' | '.join(titles)} |",
        f"|---|{'---:|' * (3 + len(titles))}",
    ]
    for name, found in rows.items():
        known = costs[name]
        cells = [f"{known['millions']:.2f}", f"{1000 * known['gflop']:.0f}"]
        cells.append(f"{found[0]['epochs']:.1f}")
        for key, (_, shown) in COLUMNS.items():
            values = [row[key] for row in found]
            spread = f" ± {shown(statistics.stdev(values))}" if len(values) > 1 else ""
            cells.append(f"{shown(statistics.mean(values))}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
