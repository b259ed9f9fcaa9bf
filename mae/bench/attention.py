"""`mae bench attention`: torch's kernels of attention at the lengths that a model has."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mae.bench.cases import Case
from mae.bench.ceiling import timed
from mae.bench.rounds import USUAL, Effort
from mae.bench.step import Progress, about, silent
from mae.bench.timing import interleaved, ratios, spread
from mae.masking import num_visible
from mae.models.mae import MaskedAutoencoder, build_mae
from mae.training.compiling import KERNELS
from mae.training.plan import build_accelerator


class Attention(NamedTuple):
    """One attention of a step; `times`: so often."""

    where: str
    heads: int
    queries: int
    keys: int
    dim: int
    times: int


def attentions(model: MaskedAutoencoder) -> list[Attention]:
    """Those of a step of `model`, whose decoder is the paper's."""
    encoder, decoder = model.encoder, model.decoder
    visible = num_visible(model.num_patches, model.mask_ratio)
    seen, hidden = encoder.num_prefix_tokens + visible, model.num_patches - visible
    block: Any = encoder.blocks[0]
    light: Any = decoder.blocks[0]
    depth, width = len(decoder.blocks), decoder.mask_token.shape[-1]
    ours = (block.attn.num_heads, encoder.embed_dim // block.attn.num_heads)
    light_heads = (light.attn.num_heads, width // light.attn.num_heads)
    whole = seen + hidden
    found = [
        Attention("encoder", ours[0], seen, seen, ours[1], len(encoder.blocks)),
        Attention("decoder", light_heads[0], whole, whole, light_heads[1], depth - 1),
        Attention("decoder, last block", light_heads[0], hidden, whole, light_heads[1], 1),
    ]
    return [one for one in found if one.times]


def bench_attention(
    case: Case, *, device: str = "cpu", effort: Effort = USUAL, progress: Progress = silent
) -> dict:
    """Forward and backward of each attention of `case` by each kernel, in turn.

    The result is ready for JSON; `attention_table` shows it.  A kernel that refuses a shape or the
    device is left out.  Raises UserError for a model that timm does not know.
    """
    config = case.config()
    half = build_accelerator(config.train).mixed_precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    with torch.device("meta"):
        model = build_mae(config.model, config.data.mean, config.data.std)
    groups = []
    for one in attentions(model):
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
    """Whether the kernel takes this shape here."""
    try:
        work()
    except RuntimeError:
        return False
    return True


def count_for(work: Callable[[], None], seconds: float, device: str) -> int:
    """How often `work` fits into a round of about `seconds`."""
    return max(1, round(seconds / timed(work, 1, torch.device(device))))
