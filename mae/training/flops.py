"""Floating-point operations of an objective, peak of the device, and MFU."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mae.base.peak_flops import peak_flops_of_name
from mae.objectives.base import Objective, total_loss


def flops_per_image(objective: Objective, channels: int) -> int:
    """Operations of forward and backward pass for one image; a multiply-add counts as two.

    Counts the operations that this implementation executes, on the meta device: no memory or
    device time is used, and the objective is not changed.
    """
    shape_only = _without_storage(objective)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        images = torch.empty(2, channels, *objective.img_size, dtype=torch.uint8)
        words = torch.empty(2, dtype=torch.int64)
        noise = shape_only.draw(images, words, words)  # two: some objectives mix them in pairs
        total_loss(shape_only(images, noise, torch.zeros(()))).backward()
    return counter.get_total_flops() // 2


def _without_storage(objective: Objective) -> Objective:
    """Copy the objective to the meta device, where tensors are shapes without storage."""
    memo: dict[int, object] = {}
    for parameter in objective.parameters():
        shape = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        memo[id(parameter)] = shape
    for buffer in objective.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(objective, memo)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak operations per second of the device in `bf16` or `fp32`; None: unknown.

    `precision`: bf16, fp32, or accelerate's `no`, which means fp32.
    """
    precision = "fp32" if precision == "no" else precision
    if device.type != "cuda":
        return None
    return peak_flops_of_name(torch.cuda.get_device_name(device), precision)


def mfu(
    images_per_second: float, flops_per_image: int, peak: float | None, devices: int
) -> float | None:
    """Model FLOPs utilisation (MFU): share of the peak of all devices; None: unknown peak."""
    return images_per_second * flops_per_image / (peak * devices) if peak else None
