"""`mae bench profile`: where the time of a training step goes, by kinds of operations."""

import heapq
import os
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile

from mae.bench.cases import Case
from mae.bench.ceiling import Ceiling, timed
from mae.bench.rounds import gflop_per_image
from mae.bench.step import about
from mae.bench.training_step import Step, build_step

KINDS = (
    ("attention", ("attention", "flash", "fmha", "sdpa", "softmax")),
    ("matrix products", ("mm", "gemm", "nvjet", "cutlass", "cublas", "linear")),
    ("fused by the compiler", ("triton", "cpp_fused", "graph_")),
    ("normalisation", ("layer_norm", "layernorm")),
    ("optimizer, gradient norm", ("adam", "multi_tensor", "foreach", "vector_norm")),
    ("activation", ("gelu",)),
    ("gathering, sorting, copying", "gather scatter sort copy cat index fill zero".split()),
    ("sums and the like", "add mul sub div sum mean var pow sqrt elementwise reduce".split()),
)
"""words in the names of operations; the first kind that has one of them counts"""

OTHERS = "others, and between the operations"
MOST = 12
"""operations that are named singly"""
STEPS = 5


def bench_profile(
    case: Case,
    *,
    device: str = "cpu",
    steps: int = STEPS,
    build: Callable[[Case], Step] = build_step,
) -> dict:
    """`case` under torch's profiler, which slows it a little, beside the same without.

    `build` makes the step.  The result is ready for JSON; `tables.profile_table` shows it.  Times
    are of the device: on a GPU those of its kernels, on a CPU those of operations without what
    they call.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # of what the profiler says of itself
    torch._inductor.config.cpp.enable_kernel_profile = True  # else compiled code has no names
    place = torch.device(device)
    step = build(case)
    for _ in range(3):
        step()
    plain = timed(step, steps, place)
    activities = [ProfilerActivity.CPU]
    if place.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        seconds = timed(step, steps, place)
    is_gpu = place.type == "cuda"
    operations = {
        event.key: (event.self_device_time_total if is_gpu else event.self_cpu_time_total)
        / 1e6
        / steps
        for event in profiler.key_averages()
    }
    precision = case.config().train.precision
    half = precision == "bf16" or (is_gpu and precision != "fp32")
    peak = Ceiling(place, torch.bfloat16 if half else torch.float32).measure(1.0)
    flops = gflop_per_image(case) * 1e9 * case.batch_size
    return {
        **about(device),
        **case._asdict(),
        "seconds_plain": plain,
        "seconds": seconds,
        "kinds": by_kind(operations.items(), seconds),
        "operations": dict(heapq.nlargest(MOST, operations.items(), key=lambda item: item[1])),
        "products_at_ceiling": flops / peak,
        "ceiling_tflop_per_s": peak / 1e12,
    }


def by_kind(operations: Iterable[tuple[str, float]], seconds: float) -> dict[str, float]:
    """Seconds of each kind, most first; what is left of `seconds` are the others."""
    kinds = defaultdict[str, float](float)
    for name, taken in operations:
        if kind := kind_of(name):
            kinds[kind] += taken
    found = dict(sorted(kinds.items(), key=lambda item: -item[1]))
    return found | {OTHERS: max(0.0, seconds - sum(found.values()))}


def kind_of(name: str) -> str | None:
    """The kind of an operation or kernel, by its name; None: another."""
    lower = name.lower()
    return next((kind for kind, words in KINDS if any(word in lower for word in words)), None)
