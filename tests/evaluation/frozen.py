"""Tiny frozen encoder and its run folder, for evaluations that train a head."""

from pathlib import Path

import torch

from mae.config.sections import DataConfig, LogConfig
from mae.data.opening import open_images
from mae.evaluation.encoders import FrozenEncoder, objective_encoder
from mae.objectives.mae.declaration import MaeModel
from mae.objectives.registry import config_type
from mae.training.checkpoint.checkpoint_files import TrainingState, reserve, write_checkpoint
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.snapshot import CheckpointTensors
from mae.training.checkpoint.trained import build_objective

CONFIG = config_type("mae")(
    data=DataConfig(workers=0, img_size=(16, 16), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    log=LogConfig(trackers=()),
    model=MaeModel(
        encoder="vit_tiny_patch16_224",
        encoder_kwargs={"embed_dim": 32, "depth": 1, "num_heads": 2},
        patch_size=4,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    ),
)


def tiny_objective():
    """Model with the same weights each time, in evaluation mode."""
    return build_objective(CONFIG).eval()


def tiny_encoder() -> FrozenEncoder:
    return objective_encoder(CONFIG, tiny_objective())


def images_of(pattern: str, key: str = "--train"):
    return open_images([pattern], key, CONFIG)


def tiny_run(folder: Path, change: float = 0.01) -> Path:
    """A run folder with one checkpoint, unlike the weights that training begins with."""
    objective = tiny_objective()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(change)
    run = Run(folder)
    run.open(CONFIG)
    state = TrainingState(3, 24, "data")
    write_checkpoint(
        reserve(run.checkpoints, state, 0), CheckpointTensors(objective.state_dict(), {}), state
    )
    return folder
