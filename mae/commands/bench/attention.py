"""`mae bench attention`: speed of torch's attention kernels at a model's sequence lengths."""

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.module_tracker import ModuleTracker

from mae.base.device import choose_device
from mae.base.errors import UserError
from mae.commands.bench.cases import Case, case_of, model_name
from mae.commands.bench.rounds import (
    USUAL,
    Effort,
    Progress,
    about,
    effort_of,
    show_progress,
    silent,
)
from mae.commands.bench.tables import about_lines, markdown, spread_of, write_result
from mae.commands.bench.timing import interleaved, ratios, seconds_per_call, spread
from mae.commands.bench.training_step import build_objective
from mae.objectives.base import Objective
from mae.training.plan import build_accelerator
from mae.training.step import KERNELS


class Attention(NamedTuple):
    """Shape of consecutive attention calls in a step."""

    where: str
    """part of the model: encoder, or decoder, last block"""
    heads: int
    queries: int
    keys: int
    dim: int
    """width of a head"""
    times: int
    """number of calls"""


def run(args: argparse.Namespace) -> None:
    """Run `mae bench attention`."""
    result = bench_attention(
        case_of(args),
        device=choose_device(args.device),
        effort=effort_of(args),
        progress=show_progress,
    )
    write_result(args.out, result, attention_table(result))


def bench_attention(
    case: Case, *, device: str = "cpu", effort: Effort = USUAL, progress: Progress = silent
) -> dict:
    """Measure forward and backward pass of each attention shape of `case` with each kernel in turn.

    A kernel that does not support a shape or the device is skipped.  The result can be written as
    JSON.  Raises UserError for invalid cases and for models without attention.
    """
    config = case.config()
    half = build_accelerator(config.train).mixed_precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    with torch.device("meta"):
        objective = build_objective(config)
    shapes = attentions(objective, config.data.in_chans)
    if not shapes:
        raise UserError(
            f"bench attention: objective {config.objective} has no attention layers "
            "(scaled_dot_product_attention); those with Vision Transformers have"
        )
    groups = []
    for shape in shapes:
        inputs = attention_inputs(shape, case.batch_size, device, dtype)
        works = {name: partial(forward_backward, inputs, one) for name, one in KERNELS.items()}
        works = {name: work for name, work in works.items() if is_supported(work)}
        counts = {
            name: calls_per_round(work, effort.seconds, device) for name, work in works.items()
        }
        tasks = {
            name: partial(seconds_per_call, work, counts[name], torch.device(device))
            for name, work in works.items()
        }
        seconds = interleaved(tasks, effort.rounds, partial(progress, shape.where))
        groups.append(
            {
                **shape._asdict(),
                "kernels": {
                    name: {
                        "seconds": spread(rounds),
                        "times_as_fast_as_math": spread(ratios(seconds["math"], rounds)),
                    }
                    for name, rounds in seconds.items()
                },
            }
        )
    return {**about(device, effort), **case._asdict(), "dtype": str(dtype), "groups": groups}


def attentions(objective: Objective, channels: int = 3) -> list[Attention]:
    """Attention shapes of a training step in order, recorded in one forward pass."""
    device = next(objective.parameters()).device
    seeds = torch.zeros(2, dtype=torch.int64, device=device)
    images = torch.zeros(2, channels, *objective.img_size, dtype=torch.uint8, device=device)
    with torch.no_grad(), device, ModuleTracker() as modules, _Recorder(modules) as recorder:
        objective(images, objective.draw(images, seeds, seeds), torch.zeros(()))
    last_blocks = {
        f"{name}.{len(blocks) - 1}"
        for name, blocks in objective.named_modules()
        if isinstance(blocks, nn.ModuleList | nn.Sequential)
    }
    found: list[Attention] = []
    for (part, *shape), group in groupby(
        recorder.calls, lambda call: (part_of(call[0]), *call[1:])
    ):
        paths = [path for path, *_ in group]
        is_last = len(paths) == 1 and any(paths[0].startswith(f"{one}.") for one in last_blocks)
        where = f"{part}, last block" if is_last else part
        found.append(Attention(where, *shape, times=len(paths)))
    return found


def part_of(path: str) -> str:
    """Name of the objective's submodule that contains the module at `path`."""
    return path.partition(".")[0] or "model"


class _Recorder(TorchFunctionMode):
    """Records (module path, heads, queries, keys, width of a head) of each attention call."""

    def __init__(self, modules: ModuleTracker) -> None:
        super().__init__()
        self.modules = modules
        self.calls: list[tuple[str, int, int, int, int]] = []

    def __torch_function__(
        self, func: Any, types: Iterable, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            q, k, *_ = args
            path = max(self.modules.parents, key=len).partition(".")[2]
            self.calls.append((path, q.shape[-3], q.shape[-2], k.shape[-2], q.shape[-1]))
        return func(*args, **(kwargs or {}))


def attention_inputs(
    shape: Attention, batch_size: int, device: str, dtype: torch.dtype
) -> list[Tensor]:
    """Queries, keys and values, [b heads tokens dim] in a linear layer's layout, and a gradient."""
    lengths = (shape.queries, shape.keys, shape.keys, shape.queries)
    tensors = [
        torch.randn(batch_size, n, shape.heads, shape.dim, device=device, dtype=dtype)
        for n in lengths
    ]
    return [one.transpose(1, 2).requires_grad_(number < 3) for number, one in enumerate(tensors)]


def forward_backward(inputs: list[Tensor], kernel: SDPBackend) -> None:
    """Run forward and backward pass of one attention call."""
    q, k, v, gradient = inputs
    with sdpa_kernel(kernel):
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), gradient)


def is_supported(work: Callable[[], None]) -> bool:
    """True where the kernel supports this shape on this device."""
    try:
        work()
    except RuntimeError:
        return False
    return True


def calls_per_round(work: Callable[[], None], seconds: float, device: str) -> int:
    """Number of calls of `work` in about `seconds`, at least 1."""
    return max(1, round(seconds / seconds_per_call(work, 1, torch.device(device))))


def attention_table(result: dict) -> str:
    """Markdown table of milliseconds of each kernel at each attention shape."""
    lines = about_lines(result)
    lines += ["", f"{model_name(result)}, batch {result['batch_size']}, {result['dtype']}", ""]
    rows = [
        [
            f"{group['where']}: {group['heads']} heads, {group['queries']} x {group['keys']} "
            f"x {group['dim']}",
            name,
            f"{1000 * kernel['seconds']['median']:.3g}",
            spread_of(kernel["times_as_fast_as_math"]),
        ]
        for group in result["groups"]
        for name, kernel in group["kernels"].items()
    ]
    heads = ["attention, forward + backward", "kernel", "ms", "times as fast as math"]
    return "\n".join([*lines, *markdown(heads, rows)])
