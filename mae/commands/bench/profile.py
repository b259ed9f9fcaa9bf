"""`mae bench profile`: time of each kind of operation in a training step."""

import argparse
import heapq
import os
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile

from mae.base.device import choose_device
from mae.commands.bench.cases import Case, case_of, model_name
from mae.commands.bench.child import Ceiling
from mae.commands.bench.rounds import about, gflop_per_image
from mae.commands.bench.tables import about_lines, markdown, write_result
from mae.commands.bench.timing import seconds_per_call
from mae.commands.bench.training_step import TimedStep, build_step
from mae.report.scales import percent

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
"""kinds of operations and the substrings of their names; the first match decides"""

OTHERS = "others, and between the operations"
NUM_OPERATIONS = 12
"""maximum number of operations listed by name"""
STEPS = 5


def run(args: argparse.Namespace) -> None:
    """Run `mae bench profile`."""
    result = bench_profile(case_of(args), device=choose_device(args.device))
    write_result(args.out, result, profile_table(result))


def bench_profile(
    case: Case,
    *,
    device: str = "cpu",
    steps: int = STEPS,
    build: Callable[[Case], TimedStep] = build_step,
) -> dict:
    """Measure `steps` steps with torch's profiler, and as many without it, as it slows them.

    `build` builds the step.  Times are the device's: of kernels on a GPU, of operations without
    those that they call on a CPU.  The result can be written as JSON.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # silences the profiler's own messages
    torch._inductor.config.cpp.enable_kernel_profile = True  # names for compiled kernels
    place = torch.device(device)
    step = build(case)
    for _ in range(3):
        step()
    plain = seconds_per_call(step, steps, place)
    activities = [ProfilerActivity.CPU]
    if place.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        seconds = seconds_per_call(step, steps, place)
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
    longest = heapq.nlargest(NUM_OPERATIONS, operations.items(), key=lambda item: item[1])
    return {
        **about(device),
        **case._asdict(),
        "seconds_plain": plain,
        "seconds": seconds,
        "kinds": by_kind(operations.items(), seconds),
        "operations": dict(longest),
        "products_at_ceiling": flops / peak,
        "ceiling_tflop_per_s": peak / 1e12,
    }


def by_kind(operations: Iterable[tuple[str, float]], seconds: float) -> dict[str, float]:
    """Seconds of each kind of operation, longest first; the rest of `seconds` is OTHERS."""
    kinds = defaultdict[str, float](float)
    for name, duration in operations:
        if kind := kind_of(name):
            kinds[kind] += duration
    found = dict(sorted(kinds.items(), key=lambda item: -item[1]))
    return found | {OTHERS: max(0.0, seconds - sum(found.values()))}


def kind_of(name: str) -> str | None:
    """Kind of an operation or kernel by its name; None where no kind matches."""
    lower = name.lower()
    return next((kind for kind, words in KINDS if any(word in lower for word in words)), None)


def profile_table(result: dict) -> str:
    """Markdown tables of the time of kinds and of the longest operations, and the ceiling's."""
    lines = about_lines(result)
    case = f"{result['implementation']} {result['mode']}: {model_name(result)}"
    case += f", batch {result['batch_size']}"
    plain, profiled = (f"{1000 * result[name]:.4g} ms" for name in ("seconds_plain", "seconds"))
    lines += ["", f"{case}: a step of {profiled} ({plain} without the profiler)"]
    rows = [
        [kind, f"{1000 * seconds:.4g}", percent(seconds / result["seconds"])]
        for kind, seconds in result["kinds"].items()
    ]
    rows.append(
        [
            "for comparison: all products at the ceiling's speed",
            f"{1000 * result['products_at_ceiling']:.4g}",
            percent(result["products_at_ceiling"] / result["seconds"]),
        ]
    )
    single = [
        [f"`{name}`", f"{1000 * seconds:.4g}", percent(seconds / result["seconds"])]
        for name, seconds in result["operations"].items()
    ]
    return "\n".join(
        [
            *lines,
            "",
            *markdown(["kind", "ms", "of the step"], rows),
            "",
            *markdown(["longest operations", "ms", "of the step"], single),
        ]
    )
