"""Communication of data-parallel training: modelled efficiencies, for the page of scaling."""

from collections.abc import Iterator, Mapping, Sequence

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
"""images/s of an H200: upper bound of a compiled step from its matrix products (790 TFLOP/s) and
memory traffic; a real step is slower and waits less for communication"""

REACHED = 0.8
"""assumed share of a link's nominal bandwidth"""

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
    """Parameters counted in the model, built on the meta device."""
    with torch.device("meta"):
        model = build_mae(Case(encoder=encoder).config())
    counts = [
        sum(p.numel() for p in part.parameters() if p.requires_grad)
        for part in (model.encoder, model.decoder)
    ]
    return Sizes(*counts, depth=len(model.encoder.blocks))


def best_rates(result: Mapping) -> dict[str, float]:
    """images/s of the fastest row of each measured model in a result of `bench_step`."""
    rates: dict[str, float] = {}
    for name, encoder in MODELS.items():
        rows = [row for row in result["rows"] if row["encoder"] == encoder and "error" not in row]
        if rows:
            rates[name] = max(row["images_per_s"]["median"] for row in rows)
    return rates


def communication_lines(rates: Mapping[str, float], source: str) -> Iterator[str]:
    """Section on communication for `rates`, images/s of one GPU; `source`: their origin."""
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
    for kind, kind_name in ((ddp, "DDP"), (fsdp2, "FSDP2")):
        yield from ["", f"**{kind_name}**, on 64 / 1,024 GPUs (NVLink: 8):", ""]
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
            communication = ddp(sizes, gpus, network, compute)
            is_possible = gpus <= MACHINE if network is NETWORKS[0] else gpus > MACHINE
            cells.append(f"{efficiency(communication, compute):.0%}" if is_possible else "")
        yield [network.name, *cells]


def _least(kind: Kind, sizes: Sizes, rate: float, network: Network) -> str:
    numbers = (MACHINE,) if network is NETWORKS[0] else (64, 1024)
    return " / ".join(
        f"{least_batch(kind, sizes, gpus=n, network=network, images_per_s=rate, goal=GOAL):,}"
        for n in numbers
    )


HEAD = """\
## Communication

Modelled efficiency of data-parallel training on 8 to 1,024 GPUs.

| input | from |
| ----- | ---- |
| parameters | counted in the models, 8 decoder blocks of width 512 |
| bytes | fp32 gradients and weights: 4 each (autocast leaves them so) |
| images/s of one GPU | {source} |
| bandwidth | assumed: {reached:.0%} of the nominal one; NVLink 450 GB/s each way; the others are \
the network links of a machine of 8 GPUs |
| latency of a message | assumed: 3 µs (NVLink), 8 µs (400 Gb/s), 15 µs (100), 25 µs (25) |
| overlap | DDP: buckets of 25 MB during the backward pass (two thirds of a step), except the last \
one; FSDP2 as in `launch/fsdp2.yaml`: the next block's weights during the current block |

A ring all-reduce sends 2 (n - 1)/n of its bytes through every link, all-gather and reduce-scatter
half of that; their latency grows with log2 n. DDP all-reduces the gradients; FSDP2 gathers the
weights twice and scatters the gradients once. Nothing here has been measured on a network.

### Bytes sent in a step

By each of 8 GPUs; with more GPUs up to an eighth more.
"""

PER_STEP = """
### The recipe's batch on more and more GPUs

Efficiency: images/s relative to as many GPUs without communication. The recipe's batch is 4,096
images, so each GPU has fewer images as their number grows. Few images also make the step itself
less efficient (`mae bench step` measures it), which is not modelled here.
"""

LEAST = """
### Images per GPU for {goal}

The smallest number of images per GPU and micro-batch for an efficiency of {goal}. With accumulation
(`train.max_device_batch`) the bytes are sent once for all micro-batches of a step, but overlap only
with the last one's backward pass.
"""

TAIL = """
### Conclusions

- Within one machine DDP's communication is negligible for all three models at any practical batch.
- Between machines with 8 × 400 Gb/s the recipe's batch of 4,096 is the limit: each GPU has too few
  images to overlap the same gradients with. A larger batch helps, a faster network does not.
- With one link for 8 GPUs bandwidth is the limit: a larger `train.batch_size`, accumulated, sends
  the bytes less often.
- FSDP2 sends half as much again as DDP, but overlaps it with the forward pass, too: both need about
  the same batches. It is for models that do not fit into a GPU's memory.
"""
