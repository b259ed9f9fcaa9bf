"""Scaling on paper, as a page: `python -m benchmarks.scaling > docs/SCALING.md`.

`python -m benchmarks.scaling STEP.json` takes the step times from a result of `mae bench step`
instead of derived ones.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.communication import (
    FLOAT,
    Kind,
    Network,
    Sizes,
    ddp,
    efficiency,
    fsdp2,
    least_batch,
    share,
)
from mae.commands.bench.cases import Case
from mae.commands.bench.tables import markdown
from mae.objectives.mae.model import build_mae

MODELS = {
    "ViT-B/16": "vit_base_patch16_224",
    "ViT-L/16": "vit_large_patch16_224",
    "ViT-H/14": "vit_huge_patch14_224",
}
DERIVED = {"ViT-B/16": 10_800.0, "ViT-L/16": 5_300.0, "ViT-H/14": 2_360.0}
"""images/s of an H200: what matrix products (790 TFLOP/s) and memory traffic allow a compiled
step, so that a real one is slower and waits for less"""

REACHED = 0.8
"""of a link's nominal bandwidth"""

NETWORKS = (
    Network("NVLink, one machine", REACHED * 450e9, 3e-6),
    Network("8 × 400 Gb/s", REACHED * 400e9, 8e-6),
    Network("1 × 400 Gb/s", REACHED * 50e9, 8e-6),
    Network("1 × 100 Gb/s", REACHED * 12.5e9, 15e-6),
    Network("1 × 25 Gb/s", REACHED * 3.125e9, 25e-6),
)
MACHINE = 8
"""GPUs of a machine"""
GPUS = (8, 16, 64, 256, 1024)
BATCH = 4096
GOAL = 0.95


def sizes_of(encoder: str) -> Sizes:
    """Counted in the model itself, without its memory."""
    with torch.device("meta"):
        model = build_mae(Case(encoder=encoder).config())
    counts = [
        sum(p.numel() for p in part.parameters() if p.requires_grad)
        for part in (model.encoder, model.decoder)
    ]
    return Sizes(*counts, depth=len(model.encoder.blocks))


def best_rates(result: Mapping) -> dict[str, float]:
    """The fastest of a model's rows in a result of `bench_step`, where it was measured."""
    rates: dict[str, float] = {}
    for name, encoder in MODELS.items():
        rows = [row for row in result["rows"] if row["encoder"] == encoder and "error" not in row]
        if rows:
            rates[name] = max(row["images_per_s"]["median"] for row in rows)
    return rates


def page(rates: Mapping[str, float], source: str) -> str:
    """The whole page; `source` says where `rates`, images/s of one GPU, come from."""
    return "\n".join(_lines(rates, source)) + "\n"


def _lines(rates: Mapping[str, float], source: str) -> Iterator[str]:
    sizes = {name: sizes_of(MODELS[name]) for name in rates}
    yield from HEAD.format(source=source, reached=REACHED).splitlines()
    yield ""
    yield from markdown(
        ["", "parameters", "DDP sends", "FSDP2 sends", "images/s of a GPU"],
        [
            [
                name,
                f"{one.all / 1e6:.1f} M",
                f"{2 * FLOAT * one.all * share(MACHINE) / 1e9:.2f} GB",
                f"{3 * FLOAT * one.all * share(MACHINE) / 1e9:.2f} GB",
                f"{rates[name]:,.0f}",
            ]
            for name, one in sizes.items()
        ],
    )
    yield from PER_STEP.splitlines()
    for name, one in sizes.items():
        yield from ["", f"**{name}**, DDP, {BATCH:,} images a step:", ""]
        heads = ["GPUs (images of each)", *(f"{n} ({BATCH // n})" for n in GPUS)]
        yield from markdown(heads, list(_efficiencies(one, rates[name])))
    yield from LEAST.format(goal=f"{GOAL:.0%}").splitlines()
    for kind, called in ((ddp, "DDP"), (fsdp2, "FSDP2")):
        yield from ["", f"**{called}**, on 64 / 1,024 GPUs (NVLink: 8):", ""]
        rows = [
            [
                network.name,
                *(_least(kind, one, rates[name], network) for name, one in sizes.items()),
            ]
            for network in NETWORKS
        ]
        yield from markdown(["", *sizes], rows)
    yield from TAIL.splitlines()


def _efficiencies(sizes: Sizes, rate: float) -> Iterator[Sequence[str]]:
    for network in NETWORKS:
        cells = []
        for gpus in GPUS:
            compute = BATCH / gpus / rate
            waiting = ddp(sizes, gpus, network, compute)
            is_there = gpus <= MACHINE if network is NETWORKS[0] else gpus > MACHINE
            cells.append(f"{efficiency(waiting, compute):.0%}" if is_there else "")
        yield [network.name, *cells]


def _least(kind: Kind, sizes: Sizes, rate: float, network: Network) -> str:
    numbers = (MACHINE,) if network is NETWORKS[0] else (64, 1024)
    return " / ".join(f"{least_batch(kind, sizes, n, network, rate, GOAL):,}" for n in numbers)


HEAD = """\
# Scaling, on paper

How many GPUs pay, by how much they have to tell each other. Made by `python -m benchmarks.scaling`;
with a result of `mae bench step --out step.json` as its argument it uses your own step times.

| input | from |
| ----- | ---- |
| parameters | counted in the models, 8 decoder blocks of width 512 |
| bytes | fp32 gradients and weights: 4 each (autocast leaves them so) |
| images/s of one GPU | {source} |
| bandwidth | assumed: {reached:.0%} of the nominal one; NVLink 450 GB/s each way; the others are \
what a machine of 8 GPUs has towards the rest |
| latency of a message | assumed: 3 µs (NVLink), 8 µs (400 Gb/s), 15 µs (100), 25 µs (25) |
| overlap | DDP: buckets of 25 MB beside the backward pass (two thirds of a step), the last one \
always waited for; FSDP2 as in `launch/fsdp2.yaml`: the next weights beside the present block |

A ring all-reduce sends 2 (n - 1)/n of its bytes through every link, all-gather and reduce-scatter
half of that; their latency grows with log2 n. DDP all-reduces the gradients; FSDP2 gathers the
weights twice and scatters the gradients once. Nothing here has been measured on a network.

## What a step sends

Of each of 8 GPUs; more GPUs send up to an eighth more.
"""

PER_STEP = """
## The recipe's batch on more and more GPUs

Efficiency: images/s beside that of as many GPUs which tell each other nothing. A batch of 4,096 is
what the paper's recipe has, so each GPU gets fewer images as their number grows. A GPU with few
images is slower for other reasons, too (`mae bench step` shows them), which are not in here.
"""

LEAST = """
## Images per GPU for {goal}

The smallest number of images that a GPU takes at once so that {goal} of the time is computed. With
accumulation (`train.max_device_batch`) the bytes are sent once for all micro-batches of a step, but
only the last one's backward pass hides them.
"""

TAIL = """
## What follows

- Within one machine DDP is free for all three models at any batch that is worth computing.
- Between machines with 8 × 400 Gb/s the recipe's batch of 4,096 is what runs out first: each GPU
  has too few images beside which the same gradients are sent. A larger batch, not a faster network.
- With one link for 8 GPUs the bytes decide: it takes a larger `train.batch_size`, accumulated, so
  that they are sent less often.
- FSDP2 sends half as much again as DDP, but has the forward pass to hide it beside, too: both need
  about the same batches. It is for models that do not fit.
"""


def main() -> None:
    """Print the page."""
    if len(sys.argv) > 1:
        result = json.loads(Path(sys.argv[1]).read_text())
        device = result["machine"]["gpu"] or result["machine"]["cpu"]
        text = page(best_rates(result), f"measured: `mae bench step` on {device}")
    else:
        text = page(DERIVED, "derived, not measured: the roof of a compiled step on an H200")
    print(text, end="")


if __name__ == "__main__":
    main()
