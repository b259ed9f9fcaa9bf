"""Sparse autoencoder on tokens of an encoder beside PCA, top-k PCA and an untrained encoder.

    python -m benchmarks.token_sparsity RUN --train 'train-*.tar' --test 'test-*.tar'

Trains configs/autoencoders/sae.yaml with several seeds on the encoder of RUN and on one of the same
architecture that has learned nothing, and prints the explained variance of the test images' tokens
beside PCA and top-k PCA with as many numbers per token, then the speed of a step and the encoder's
share of its time.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.autoencoders.comparison import RECIPES, last_evaluation
from mae.objectives.base import total_loss
from mae.objectives.sae.model import TokenSparseAutoencoder
from mae.pretrain import main as pretrain
from mae.training.checkpoint.trained import load_pretrained

ENCODERS = {"trained": [], "untrained": ["model.untrained=true"]}
"""encoder → settings"""

ROUNDS, BATCH = 5, 32
"""rounds of the measurement of speed, the fastest of which counts; images per step"""


def main(argv: list[str] | None = None) -> int:
    """Train all runs, print a line for each and the speed; write OUT as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.token_sparsity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("run", type=Path, help="run of the encoder")
    parser.add_argument("--train", required=True, nargs="+", help="training shards")
    parser.add_argument("--test", required=True, nargs="+", help="test shards")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000, help="test images that are evaluated")
    parser.add_argument("--settings", nargs="*", default=[], help="settings of sae.yaml to change")
    parser.add_argument("--out", type=Path, default=Path("token_sparsity.json"))
    args = parser.parse_args(argv)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ENCODERS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for seed in range(args.seeds):
            for name in ENCODERS:
                folder = Path(scratch) / f"{name}-{seed}"
                words = settings(args, name, seed, folder)
                if code := pretrain([str(RECIPES / "sae.yaml"), *words]):
                    return code
                rows[name].append(last_evaluation(folder))
        speed = step_speed(folder)
    for name, found in rows.items():
        print(summary(name, found))
    print(
        f"speed      {speed.tokens_per_second:,.0f} tokens/s of CPU time in a step, of which the "
        f"encoder takes {speed.encoder_share:.0%}"
    )
    args.out.write_text(json.dumps({"rows": rows, "speed": speed._asdict()}, indent=1) + "\n")
    return 0


def settings(args: argparse.Namespace, name: str, seed: int, folder: Path) -> list[str]:
    """Settings of one run."""
    return [
        f"data.train={json.dumps(args.train)}",
        f"data.val={json.dumps(args.test)}",
        f"model.encoder={args.run}",
        f"output={folder}",
        f"train.seed={seed}",
        "data.workers=0",
        f"log.health_images={args.images}",
        "log.health_every=1000",
        "log.panel_every=0",
        "log.trackers=[]",
        *args.settings,
        *ENCODERS[name],
    ]


SHOWN = {
    "explained": "explained",
    "explained_topk_pca": "top-k PCA",
    "explained_pca": "PCA",
    "active_latents": "active latents",
    "dead_latents": "dead",
}
"""column of health.jsonl → name"""


def summary(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """One line: each figure of all seeds."""
    shown = (
        f"{label} {' '.join(f'{row[column]:.3f}' for row in rows)}"
        for column, label in SHOWN.items()
    )
    return f"{name:10} {'; '.join(shown)}; {rows[0]['tokens']:,} tokens"


class Speed(NamedTuple):
    """Speed of a step on the CPU."""

    tokens_per_second: float
    """per second of CPU time: encoder, forward and backward pass"""
    encoder_share: float
    """share of this time in the encoder"""


def step_speed(run: Path) -> Speed:
    """Measure forward and backward pass of a finished run, on random images, in CPU time."""
    config, model, _ = load_pretrained(run)
    assert isinstance(model, TokenSparseAutoencoder)
    shape = (BATCH, config.data.in_chans, *model.img_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    tokens = model.tokens(images)
    encoder = min(seconds(lambda: model.tokens(images)) for _ in range(ROUNDS))
    rest = min(
        seconds(lambda: total_loss(model.dictionary(tokens)).backward()) for _ in range(ROUNDS)
    )
    count = tokens.shape[0] * tokens.shape[1]
    return Speed(count / (encoder + rest), encoder / (encoder + rest))


def seconds(work: Callable[[], object]) -> float:
    """CPU time of this process for `work`."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
