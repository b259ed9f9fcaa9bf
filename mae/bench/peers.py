"""`mae bench peers`: our step beside others', on the same model, batch and optimizer."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from mae.bench.cases import IMPLEMENTATIONS, OURS, TEXTBOOK, TRANSFORMERS, Case
from mae.bench.cost import cost_of
from mae.bench.rounds import USUAL, Effort, measure
from mae.bench.step import Progress, about, environment, silent
from mae.bench.timing import ratios, spread
from mae.bench.training_step import TextbookLoss, TransformersLoss
from mae.models.mae import MaskedAutoencoder, build_mae


def bench_peers(
    models: Sequence[str],
    batch_sizes: Sequence[int],
    modes: Sequence[str],
    decoder_depth: int = 8,
    *,
    img_size: int | None = None,
    precision: str = "auto",
    device: str = "cpu",
    effort: Effort = USUAL,
    progress: Progress = silent,
) -> dict:
    """All implementations in all modes, those of a model and batch size in turn.

    The result is ready for JSON; `tables.peers_table` shows it.  Raises UserError without
    transformers or for models that timm does not know, RunFailed where a process fails.
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
        what = f"{model}, batch {batch_size}"

        def tell(done: int, total: int, what: str = what) -> None:
            progress(what, done, total)

        rows = measure(cases, effort, environment(device), tell)
        groups.append({"rows": rows, "times": leads(rows), "cost": costs(cases[0])})
    return {**about(device, effort), "groups": groups}


def leads(rows: Sequence[dict]) -> list[dict]:
    """How many times faster ours is than each other in the same mode, round by round.

    `cpu`: by the processors' own time, which other work on the machine hardly touches.
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
    """What each implementation costs per image, counted in fp32 on the CPU.

    Of a second image in the batch: what it costs beyond the first, the weights' own share left out.
    """
    config = case.config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_mae(config.model, config.data.mean, config.data.std)
        shape = (2, config.model.in_chans, *model.img_size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        losses = {
            OURS: OurLoss(model),
            TEXTBOOK: TextbookLoss(model),
            TRANSFORMERS: TransformersLoss(model),
        }
        return {name: per_image(loss, images) for name, loss in losses.items()}


class OurLoss(nn.Module):
    """Masks drawn and loss computed, as the loop does."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images to the loss."""
        return self.model(images, self.model.draw(images, torch.arange(len(images)))).loss


def per_image(loss: nn.Module, images: Tensor) -> dict[str, float]:
    """The cost of the second of two images; operations are those of a step."""
    one, two = (cost_of(lambda n=n: loss(images[:n]), loss) for n in (1, 2))
    return {
        "gflop": (two.flops - one.flops) / 1e9,
        "saved_mb": (two.saved_bytes - one.saved_bytes) / 1e6,
        "traffic_mb": (two.traffic_bytes - one.traffic_bytes) / 1e6,
        "operations": two.operations,
    }
