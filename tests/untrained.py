"""Run folders that hold a checkpoint of a tiny model, made in no time and without training."""

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from mae.config.sections import Config, DataConfig, TrainConfig
from mae.objectives.registry import config_type
from mae.training.checkpoint.checkpoint_files import TrainingState, reserve, write_checkpoint
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.snapshot import AVERAGE, CheckpointTensors
from mae.training.checkpoint.trained import build_objective

CLASSES = 3
NUMBERS = (0.5, 0.5, 0.5)


def tiny_config(objective: str = "mae", **sections: Any) -> Config:
    """ViT of two blocks on 16 patches; `sections` replace those of the same name."""
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    model = {"encoder": "vit_tiny_patch16_224", "encoder_kwargs": sizes, "patch_size": 4}
    if objective == "mae":
        model |= {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    data = sections.pop("data", DataConfig(train=("gone.tar",), mean=NUMBERS, std=NUMBERS))
    data = data.model_copy(update={"img_size": data.img_size or (16, 16)})
    return config_type(objective).model_validate(
        {"objective": objective, "model": model, "data": data, **sections}
    )


def classifier_config(
    pool: Literal["avg", "token"] = "avg", ema: float = 0.5, **sections: Any
) -> Config:
    """Tiny classifier of three classes, with averaged weights unless `ema` is 0."""
    finetune = {"num_classes": CLASSES, "global_pool": pool}
    train = sections.pop("train", TrainConfig()).model_copy(update={"ema": ema})
    return tiny_config("classifier", finetune=finetune, train=train, **sections)


def untrained_run(folder: Path, config: Config) -> Path:
    """`folder`, with a checkpoint of step 6; all its weights drawn, the averaged ones anew."""
    run = Run(folder)
    run.open(config)
    objective = build_objective(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    tensors = objective.state_dict()
    if config.train.ema:
        tensors |= {
            f"{AVERAGE}{name}": p.detach() + 0.1 * torch.randn(p.shape, generator=generator)
            for name, p in objective.named_parameters()
            if p.requires_grad
        }
    write_weights(folder, tensors)
    return folder


def write_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Make these the weights of step 6."""
    state, checkpoints = TrainingState(6, 48, "f" * 64), Run(folder).checkpoints
    shutil.rmtree(checkpoints / "step-000000006", ignore_errors=True)
    write_checkpoint(reserve(checkpoints, state, 0), CheckpointTensors(tensors, {}), state)


def earlier_layout(folder: Path) -> Path:
    """The same run as an earlier version wrote it: averages of the encoder alone, by its names."""
    file = folder / "checkpoints" / "step-000000006" / "model.safetensors"
    prefix = f"{AVERAGE}encoder."
    tensors = {key.replace(prefix, AVERAGE): value for key, value in load_file(file).items()}
    write_weights(folder, tensors)
    return folder
