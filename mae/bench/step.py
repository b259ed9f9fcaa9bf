"""`mae bench step`: the training step on synthetic images, for models, batch sizes and modes."""

from collections.abc import Callable, Sequence
from itertools import product

import torch

from mae.bench.cases import Case
from mae.bench.rounds import USUAL, Effort, measure
from mae.bench.timing import machine

Progress = Callable[[str, int, int], None]
"""called with what is measured, rounds done, and rounds in all"""


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


def bench_step(
    models: Sequence[str],
    batch_sizes: Sequence[int],
    modes: Sequence[str],
    decoder_depths: Sequence[int] = (8,),
    *,
    config_file: str = "",
    variants: Sequence[str] = ("",),
    img_size: int | None = None,
    precision: str = "auto",
    device: str = "cpu",
    effort: Effort = USUAL,
    progress: Progress = silent,
) -> dict:
    """Every combination; those of a model and decoder depth are measured in turn.

    `config_file`: settings of the model, of any objective, instead of `models` and
    `decoder_depths`.  `variants`: settings, with commas between those that belong together; "" are
    the defaults.  The result is ready for JSON; `tables.step_table` and `plots.step_plot` show it.

    Raises UserError for models and settings that there are not, RunFailed where a measuring
    process fails.
    """
    rows = []
    for base in bases(models, decoder_depths, config_file):
        cases = [
            base._replace(
                img_size=img_size,
                batch_size=batch_size,
                mode=mode,
                precision=precision,
                settings=variant,
            )
            for batch_size, mode, variant in product(batch_sizes, modes, variants)
        ]
        depth = "" if config_file else f", decoder of {base.decoder_depth}"
        what = f"{base.model}{depth}"

        def tell(done: int, total: int, what: str = what) -> None:
            progress(what, done, total)

        rows += measure(cases, effort, environment(device), tell)
    return {**about(device, effort), "rows": rows}


def bases(
    models: Sequence[str], decoder_depths: Sequence[int], config_file: str = ""
) -> list[Case]:
    """A case of each model: that of the file of settings, or the encoders with their decoders."""
    if config_file:
        return [Case(config_file=config_file)]
    return [Case(encoder=name, decoder_depth=n) for name, n in product(models, decoder_depths)]


def about(device: str, effort: Effort | None = None) -> dict:
    """Machine, device and rounds of a measurement."""
    rounds = {"rounds": effort.rounds, "seconds_per_round": effort.seconds} if effort else {}
    return {
        "machine": machine(),
        "device": "cuda" if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        **rounds,
    }


def environment(device: str) -> dict[str, str]:
    """Variables that make a process work on `device`, as the loop chooses it."""
    if not device.startswith("cuda"):
        return {"CUDA_VISIBLE_DEVICES": ""}
    index = device.partition(":")[2]
    return {"CUDA_VISIBLE_DEVICES": index} if index else {}
