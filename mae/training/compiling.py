"""torch.compile and the choice of attention's kernels, as the `train` section asks for them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mae.config.sections import TrainConfig

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def compile_step(model: nn.Module, config: TrainConfig, may_break: bool = False) -> None:
    """Compile `model` in place where `train.compile` says so: one graph, of these very shapes.

    `may_break`: in several graphs, where something in the model cannot be compiled.
    """
    if not config.compile:
        return
    mode = config.compile if isinstance(config.compile, str) else "default"
    model.compile(mode=mode, fullgraph=not may_break, dynamic=False)


def begin_step(config: TrainConfig) -> None:
    """Before each optimizer step: from here on CUDA graphs may reuse the memory of the last one."""
    if isinstance(config.compile, str):
        torch.compiler.cudagraph_mark_step_begin()


def attention_kernel(config: TrainConfig) -> AbstractContextManager:
    """While it is open, attention is computed by the kernel that `train.attention` names."""
    return nullcontext() if config.attention == "auto" else sdpa_kernel(KERNELS[config.attention])
