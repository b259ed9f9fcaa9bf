"""Frozen encoder of a sparse autoencoder: the model up to a layer, and the width of its tokens."""

import copy
from pathlib import Path

import torch

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.networks.encoders.registry import adapter_of
from mae.networks.vit import timm_encoder
from mae.objectives.base import FirstStage, Objective
from mae.objectives.sae.declaration import sae_model


def token_encoder(stage: FirstStage, config: Config) -> Objective:
    """The encoder up to block model.layer, in evaluation mode; `stage` stays whole.

    Raises UserError where there is no such block.
    """
    model = sae_model(config)
    return up_to_block(stage.model, model.layer, model.encoder) if model.layer else stage.model


def up_to_block(whole: Objective, layer: int, source: Path) -> Objective:
    """A copy without the blocks above block `layer` and the final norm; the weights are shared.

    Raises UserError, naming `source`, where there is no such block.
    """
    tensors = [*whole.parameters(), *whole.buffers()]
    objective = copy.deepcopy(whole, {id(tensor): tensor for tensor in tensors})
    vit = timm_encoder(objective)
    if vit is None:
        raise UserError(
            f"model.layer: {source} has no blocks of a Vision Transformer: leave it out"
        )
    adapter = adapter_of(vit)
    depth = len(adapter.blocks(vit))
    if layer > depth:
        raise UserError(
            f"model.layer: no block {layer}: {source} has {depth} (0: its last tokens, after the "
            "final norm)"
        )
    adapter.truncate(vit, layer)
    return objective


@torch.no_grad()
def token_width(encoder: Objective, config: Config) -> int:
    """Numbers of a token, found by encoding one black image.

    Raises UserError where the encoder has no tokens, or they are not finite.
    """
    data, source = config.data, sae_model(config).encoder
    dtype = torch.uint8 if data.bits == 8 else torch.uint16
    tokens = encoder.encode(torch.zeros(1, data.in_chans, *encoder.img_size, dtype=dtype)).tokens
    if tokens is None:
        raise UserError(f"model.encoder: {source} has no patch tokens: give a Vision Transformer")
    if not tokens.isfinite().all():
        raise UserError(
            f"model.encoder: the tokens of {source} for a black image are not finite: the weights "
            "are damaged"
        )
    return tokens.shape[2]
