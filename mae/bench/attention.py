"""`mae bench attention`: torch's kernels of attention at the lengths that a model has."""

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

from mae.base.errors import UserError
from mae.bench.cases import Case
from mae.bench.ceiling import timed
from mae.bench.rounds import USUAL, Effort
from mae.bench.step import Progress, about, silent
from mae.bench.synthetic import build
from mae.bench.timing import interleaved, ratios, spread
from mae.objectives.base import Objective
from mae.training.plan import build_accelerator
from mae.training.step import KERNELS


class Attention(NamedTuple):
    """One shape of attention in a step; `times`: number of calls."""

    where: str
    heads: int
    queries: int
    keys: int
    dim: int
    times: int


def attentions(objective: Objective, channels: int = 3) -> list[Attention]:
    """Shapes of attention in a step of `objective`, in order; noted in a forward pass."""
    device = next(objective.parameters()).device
    words = torch.zeros(2, dtype=torch.int64, device=device)
    images = torch.zeros(2, channels, *objective.img_size, dtype=torch.uint8, device=device)
    with torch.no_grad(), device, ModuleTracker() as places, _Noted(places) as noted:
        objective(images, objective.draw(images, words, words), torch.zeros(()))
    last_blocks = {
        f"{name}.{len(blocks) - 1}"
        for name, blocks in objective.named_modules()
        if isinstance(blocks, nn.ModuleList | nn.Sequential)
    }
    found: list[Attention] = []
    for (part, *shape), calls in groupby(noted.calls, lambda call: (part_of(call[0]), *call[1:])):
        paths = [path for path, *_ in calls]
        is_last = len(paths) == 1 and any(paths[0].startswith(f"{one}.") for one in last_blocks)
        where = f"{part}, last block" if is_last else part
        found.append(Attention(where, *shape, times=len(paths)))
    return found


def part_of(path: str) -> str:
    """The objective's own part that a module belongs to, by the module's path."""
    return path.partition(".")[0] or "model"


class _Noted(TorchFunctionMode):
    """Notes module, heads, queries, keys and width of a head of each call of torch's attention."""

    def __init__(self, places: ModuleTracker) -> None:
        super().__init__()
        self.places = places
        self.calls: list[tuple[str, int, int, int, int]] = []

    def __torch_function__(
        self, func: Any, types: Iterable, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            q, k, *_ = args
            path = max(self.places.parents, key=len).partition(".")[2]
            self.calls.append((path, q.shape[-3], q.shape[-2], k.shape[-2], q.shape[-1]))
        return func(*args, **(kwargs or {}))


def bench_attention(
    case: Case, *, device: str = "cpu", effort: Effort = USUAL, progress: Progress = silent
) -> dict:
    """Forward and backward of each attention of `case` by each kernel, in turn.

    The result is ready for JSON; `attention_table` shows it.  A kernel that refuses a shape or the
    device is left out.  Raises UserError for a model that cannot be had or has no attention.
    """
    config = case.config()
    half = build_accelerator(config.train).mixed_precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    with torch.device("meta"):
        objective = build(config)
    shapes = attentions(objective, config.data.in_chans)
    if not shapes:
        raise UserError(
            f"bench attention: objective {config.objective} has no attention layers "
            "(scaled_dot_product_attention); those with Vision Transformers have"
        )
    groups = []
    for one in shapes:
        inputs = tensors(one, case.batch_size, device, dtype)
        works = {name: partial(run, inputs, kernel) for name, kernel in KERNELS.items()}
        works = {name: work for name, work in works.items() if is_possible(work)}
        counts = {name: count_for(work, effort.seconds, device) for name, work in works.items()}
        tasks = {
            name: partial(timed, work, counts[name], torch.device(device))
            for name, work in works.items()
        }
        seconds = interleaved(tasks, effort.rounds, partial(progress, one.where))
        groups.append(
            {
                **one._asdict(),
                "kernels": {
                    name: {
                        "seconds": spread(taken),
                        "times_as_fast_as_math": spread(ratios(seconds["math"], taken)),
                    }
                    for name, taken in seconds.items()
                },
            }
        )
    return {**about(device, effort), **case._asdict(), "dtype": str(dtype), "groups": groups}


def tensors(one: Attention, batch: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys, values, laid out as a linear layer leaves them; and a gradient."""
    lengths = (one.queries, one.keys, one.keys, one.queries)
    made = [torch.randn(batch, n, one.heads, one.dim, device=device, dtype=dtype) for n in lengths]
    return [tensor.transpose(1, 2).requires_grad_(number < 3) for number, tensor in enumerate(made)]


def run(inputs: list[Tensor], kernel: SDPBackend) -> None:
    """Forward and backward, once."""
    q, k, v, gradient = inputs
    with sdpa_kernel(kernel):
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), gradient)


def is_possible(work: Callable[[], None]) -> bool:
    """True where the kernel takes this shape here."""
    try:
        work()
    except RuntimeError:
        return False
    return True


def count_for(work: Callable[[], None], seconds: float, device: str) -> int:
    """Number of times that `work` fits into a round of about `seconds`."""
    return max(1, round(seconds / timed(work, 1, torch.device(device))))
