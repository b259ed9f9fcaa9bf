"""Objectives and batches that need no data: what the step is measured with."""

import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.data.batch import Batch
from mae.objectives.base import Objective
from mae.objectives.registry import declaration, implementation


def build(config: Config) -> Objective:
    """The objective of `config`, initialised from torch's generator, on torch's default device.

    Raises UserError where settings are open that only training data could fill in, or the batch
    is none that the objective takes.
    """
    declared = declaration(config.objective)
    if missing := sorted(declared.completed_keys(config)):
        raise UserError(
            f"bench: objective {config.objective} takes {', '.join(missing)} from its training "
            "data, and synthetic images have none: set it (section.key=value)"
        )
    multiple, reason = declared.batch_multiple(config)
    if config.train.batch_size % multiple:
        raise UserError(f"bench: {config.train.batch_size} images at a time; {reason}")
    return implementation(config.objective).build(config)


def synthetic_images(config: Config, img_size: tuple[int, int], count: int) -> Tensor:
    """Random pixels of as many bits as the settings say, [b c h w], from torch's generator."""
    shape = (count, config.data.in_chans, *img_size)
    if config.data.bits == 8:
        return torch.randint(0, 256, shape, dtype=torch.uint8)
    return torch.randint(0, 2**config.data.bits, shape, dtype=torch.int32).to(torch.uint16)


def synthetic_batch(config: Config, img_size: tuple[int, int], count: int) -> Batch[Tensor]:
    """Such images as the loader gives them, all of the first class."""
    numbers = torch.arange(count)
    images = synthetic_images(config, img_size, count)
    labels = torch.zeros_like(numbers)
    return Batch(images=images, seeds=numbers, samples=numbers, labels=labels, bad=[])
