"""The training step by others: by the textbook, and by transformers."""

from typing import Any

import torch
from accelerate import Accelerator
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks.textbook import TextbookStep
from mae.base.errors import UserError
from mae.bench import training_step
from mae.bench.cases import OURS, Case
from mae.bench.synthetic import synthetic_images
from mae.bench.training_step import LR, Step
from mae.config.sections import Config
from mae.networks.parameter_groups import parameter_groups
from mae.objectives.base import total_loss
from mae.objectives.mae.masking import PatchSplit, num_visible
from mae.objectives.mae.model import MaskedAutoencoder, build_mae
from mae.training.optim import build_optimizer, set_lr
from mae.training.plan import build_accelerator
from mae.training.step import begin_step, compile_step

TEXTBOOK, TRANSFORMERS = "textbook", "transformers"
IMPLEMENTATIONS = (OURS, TEXTBOOK, TRANSFORMERS)


def build_step(case: Case) -> Step:
    """The step of `case`, by whomever.  Raises UserError where it cannot be had."""
    if case.implementation == OURS:
        return training_step.build_step(case)
    config = case.config()
    accelerator = build_accelerator(config.train)
    torch.manual_seed(0)
    model = build_mae(config)
    images = synthetic_images(config, model.img_size, case.batch_size).to(accelerator.device)
    other = {TEXTBOOK: TextbookLoss, TRANSFORMERS: TransformersLoss}[case.implementation](model)
    return plain_step(other, config, images, accelerator)


def plain_step(model: nn.Module, config: Config, images: Tensor, accelerator: Accelerator) -> Step:
    """A step as everybody writes it, with our optimizer and precision: no guard, no meter."""
    model.to(accelerator.device).train()
    compile_step(model, config.train, may_break=True)
    groups = parameter_groups(model, config.optim.weight_decay)
    optimizer = build_optimizer(groups, config.optim)

    def step() -> Tensor:
        begin_step(config.train)
        set_lr(optimizer, LR)
        with accelerator.autocast():
            loss = model(images)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


class TextbookLoss(nn.Module):
    """The paper step by step; masks from random noise, as everybody draws them."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.textbook = TextbookStep(model)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images to the loss."""
        model = self.textbook.model
        visible = num_visible(model.num_patches, model.mask_ratio)
        shuffle = torch.rand(len(images), model.num_patches, device=images.device).argsort(dim=1)
        noise = PatchSplit(shuffle[:, :visible], shuffle[:, visible:])
        return total_loss(self.textbook(images, noise))


class TransformersLoss(nn.Module):
    """`ViTMAEForPreTraining` of the same sizes; images are normalised on the device."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.theirs = transformers_model(model)
        self.register_buffer("scale", model.pixel_scale.view(-1, 1, 1).clone())
        self.register_buffer("shift", model.pixel_shift.view(-1, 1, 1).clone())

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images to the loss."""
        return self.theirs(pixel_values=images * self.scale + self.shift).loss


def transformers_model(model: MaskedAutoencoder) -> nn.Module:
    """Their model with the sizes of ours; UserError without the package."""
    try:
        from transformers import ViTMAEConfig, ViTMAEForPreTraining
    except ImportError:
        raise UserError("benchmarks: needs transformers (pip install 'mae[test]')") from None
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, VisionTransformer)
    block: Any = encoder.blocks[0]
    light: Any = decoder.blocks[0]
    height, width = model.img_size
    patch, other = model.patch_size
    if height != width or patch != other or encoder.num_prefix_tokens != 1:
        raise UserError("benchmarks: transformers' ViTMAE is square and has one class token")
    config = ViTMAEConfig(
        hidden_size=encoder.embed_dim,
        num_hidden_layers=len(encoder.blocks),
        num_attention_heads=block.attn.num_heads,
        intermediate_size=block.mlp.fc1.out_features,
        image_size=height,
        patch_size=patch,
        num_channels=encoder.patch_embed.proj.in_channels,
        decoder_hidden_size=decoder.mask_token.shape[-1],
        decoder_num_hidden_layers=len(decoder.blocks),
        decoder_num_attention_heads=light.attn.num_heads,
        decoder_intermediate_size=light.mlp.fc1.out_features,
        layer_norm_eps=1e-6,
        mask_ratio=model.mask_ratio,
        norm_pix_loss=model.norm_pix_loss,
    )
    return ViTMAEForPreTraining(config)
