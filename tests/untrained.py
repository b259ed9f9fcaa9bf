"""Run folders that hold a checkpoint of a tiny model, made in no time and without training."""

from pathlib import Path
from typing import Any, Literal

import torch

from mae.config import Config, DataConfig, FinetuneConfig, ModelConfig
from mae.training.checkpoint import Position, reserve, write_checkpoint
from mae.training.run import Run, build_objective
from mae.training.snapshot import Tensors

CLASSES = 3
NUMBERS = (0.5, 0.5, 0.5)


def tiny_config(**sections: Any) -> Config:
    """ViT of two blocks on 16 patches; `sections` replace those of the same name."""
    model = ModelConfig(
        encoder="vit_tiny_patch16_224",
        encoder_kwargs={"embed_dim": 32, "depth": 2, "num_heads": 2},
        img_size=(16, 16),
        patch_size=4,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    )
    data = sections.pop("data", DataConfig(train=("gone.tar",), mean=NUMBERS, std=NUMBERS))
    return Config(model=model, data=data, **sections)


def classifier_config(
    pool: Literal["avg", "token"] = "avg", ema: float = 0.5, **sections: Any
) -> Config:
    """Of three classes, with averaged weights unless `ema` is 0."""
    finetune = FinetuneConfig(num_classes=CLASSES, global_pool=pool, ema=ema)
    return tiny_config(objective="classifier", finetune=finetune, **sections)


def untrained_run(folder: Path, config: Config) -> Path:
    """`folder`, with a checkpoint of step 6; all its weights drawn, the averaged ones anew."""
    run = Run(folder)
    run.open(config)
    objective = build_objective(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    position = Position(6, 48, "f" * 64)
    part = reserve(run.checkpoints, position, 0)
    write_checkpoint(part, Tensors(objective.state_dict(), {}), position)
    return folder
