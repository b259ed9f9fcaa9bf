"""Our training step compared with other implementations': `python -m benchmarks.peers`.

All implementations train the same model on the same batch with the same optimizer.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from benchmarks.cost import cost_of
from benchmarks.implementations import (
    IMPLEMENTATIONS,
    TEXTBOOK,
    TRANSFORMERS,
    TextbookLoss,
    TransformersLoss,
)
from mae.base.device import choose_device
from mae.base.exit_status import exit_code
from mae.commands.argument_types import positive
from mae.commands.bench.cases import OURS, Case, model_name
from mae.commands.bench.command import DECODER_DEPTH, ENCODER, step_options
from mae.commands.bench.rounds import (
    USUAL,
    Effort,
    Progress,
    about,
    effort_of,
    environment,
    measure,
    show_progress,
    silent,
)
from mae.commands.bench.tables import (
    RATES,
    about_lines,
    markdown,
    rates_of,
    spread_of,
    write_result,
)
from mae.commands.bench.timing import ratios, spread
from mae.objectives.base import total_loss
from mae.objectives.mae.model import MaskedAutoencoder, build_mae

BUILDER = "benchmarks.implementations"


def bench_peers(
    models: Sequence[str],
    batch_sizes: Sequence[int],
    modes: Sequence[str],
    decoder_depth: int = DECODER_DEPTH,
    *,
    img_size: int | None = None,
    precision: str = "auto",
    device: str = "cpu",
    effort: Effort = USUAL,
    progress: Progress = silent,
) -> dict:
    """Measure all implementations in all modes; those of one model and batch size in turn.

    The result can be written as JSON.  Raises UserError without transformers and for models
    unknown to timm, RunFailed where a process fails.
    """
    groups = []
    for model, batch_size in product(models, batch_sizes):
        cases = [
            Case(
                implementation=implementation,
                encoder=model,
                img_size=img_size,
                decoder_depth=decoder_depth,
                batch_size=batch_size,
                mode=mode,
                precision=precision,
            )
            for mode, implementation in product(modes, reversed(IMPLEMENTATIONS))
        ]
        name = f"{model}, batch {batch_size}"

        def show(done: int, total: int, name: str = name) -> None:
            progress(name, done, total)

        rows = measure(cases, effort, environment(device), show, BUILDER)
        groups.append({"rows": rows, "times": leads(rows), "cost": costs(cases[0])})
    return {**about(device, effort), "groups": groups}


def leads(rows: Sequence[dict]) -> list[dict]:
    """Ratio of our speed to each other implementation's in the same mode, round by round.

    `cpu`: the same in CPU time, which other load on the machine hardly affects.  `memory`: our peak
    memory divided by theirs.
    """
    measured = {(row["implementation"], row["mode"]): row for row in rows if "error" not in row}
    found = []
    for (implementation, mode), row in measured.items():
        ours = measured.get((OURS, mode))
        if implementation == OURS or ours is None:
            continue
        lead = {
            "mode": mode,
            "than": implementation,
            "speed": spread(ratios(row["seconds"], ours["seconds"])),
            "cpu": spread(ratios(row["cpu_seconds"], ours["cpu_seconds"])),
        }
        if row["memory"] and ours["memory"]:
            lead["memory"] = ours["memory"] / row["memory"]
        found.append(lead)
    return found


def costs(case: Case) -> dict[str, dict[str, float]]:
    """Cost of each implementation per image, counted in fp32 on the CPU.

    The difference between batches of two images and of one, which excludes the weights' own cost.
    """
    config = case.config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_mae(config)
        shape = (2, config.data.in_chans, *model.img_size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        losses = {
            OURS: OurLoss(model),
            TEXTBOOK: TextbookLoss(model),
            TRANSFORMERS: TransformersLoss(model),
        }
        return {name: per_image(loss, images) for name, loss in losses.items()}


class OurLoss(nn.Module):
    """Loss of our model with masks drawn as in training."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Loss of uint8 images [b c h w]."""
        noise = self.model.draw(images, torch.arange(len(images)))
        return total_loss(self.model(images, noise, torch.zeros(())))


def per_image(loss: nn.Module, images: Tensor) -> dict[str, float]:
    """Cost of the second of two images; `operations` are those of a step with both."""
    one, two = (cost_of(lambda n=n: loss(images[:n]), loss) for n in (1, 2))
    return {
        "gflop": (two.flops - one.flops) / 1e9,
        "saved_mb": (two.saved_bytes - one.saved_bytes) / 1e6,
        "traffic_mb": (two.traffic_bytes - one.traffic_bytes) / 1e6,
        "operations": two.operations,
    }


def peers_table(result: dict) -> str:
    """Markdown tables of rates, our lead and the counted cost, by model and batch size."""
    lines, on_cpu = about_lines(result), result["device"] == "cpu"
    for group in result["groups"]:
        rows, first = group["rows"], group["rows"][0]
        lines += ["", f"{model_name(first)}, batch {first['batch_size']}", ""]
        cells = [[f"{row['implementation']} {row['mode']}", *rates_of(row)] for row in rows]
        lines += markdown(["", *RATES], cells)
        if group["times"]:
            cells = [
                [
                    f"mae {lead['mode']} beside {lead['than']} {lead['mode']}",
                    spread_of(lead["speed"]),
                    *([spread_of(lead["cpu"])] if on_cpu else []),
                    f"{lead['memory']:.2f}" if "memory" in lead else "–",
                ]
                for lead in group["times"]
            ]
            heads = ["", "times as fast", *["by CPU time"] * on_cpu, "times its memory"]
            lines += ["", *markdown(heads, cells)]
        cells = [
            [
                name,
                f"{cost['gflop']:.4g}",
                f"{cost['saved_mb']:.4g}",
                f"{cost['traffic_mb']:,.4g}",
                f"{cost['operations']}",
            ]
            for name, cost in group["cost"].items()
        ]
        heads = ["counted, fp32, eager", "GFLOP/image", "MB held/image", "MB moved/image"]
        lines += ["", *markdown([*heads, "operations/step"], cells)]
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=(__doc__ or "").partition(":")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=[ENCODER], help="timm names of the encoders")
    parser.add_argument(
        "--decoder-depth", type=positive, default=DECODER_DEPTH, help="number of decoder blocks"
    )
    step_options(parser, [8], ["eager", "compile"])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    args = build_parser().parse_args(argv)

    def work() -> None:
        result = bench_peers(
            args.models,
            args.batch_sizes,
            args.modes,
            args.decoder_depth,
            img_size=args.img_size,
            precision=args.precision,
            device=choose_device(args.device),
            effort=effort_of(args),
            progress=show_progress,
        )
        write_result(args.out, result, peers_table(result))

    return exit_code(work, "benchmarks")


if __name__ == "__main__":
    sys.exit(main())
