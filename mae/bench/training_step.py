"""One whole training step on synthetic images, by us and by others, ready to be called."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.allocator import keep_freed_memory
from mae.bench.cases import OURS, TEXTBOOK, TRANSFORMERS, Case
from mae.bench.textbook import TextbookStep
from mae.config import Config
from mae.errors import UserError
from mae.masking import PatchSplit, num_visible
from mae.models.mae import MaskedAutoencoder, build_mae
from mae.training.compiling import begin_step, compile_step
from mae.training.guard import skip_if_not_finite
from mae.training.meter import Meter
from mae.training.optim import build_optimizer, set_lr
from mae.training.plan import build_accelerator
from mae.training.sharding import prepare

LR = 1e-4
REPORT_EVERY = 20
"""steps, as log.every: reading the numbers is the only time that the loop waits for the device"""

Step = Callable[[], Tensor]
"""does one step and returns its loss, on the device"""


def build_step(case: Case) -> Step:
    """The step of `case`.  Raises UserError where its model or mode cannot be had."""
    config = case.config()
    accelerator = build_accelerator(config.train)
    torch.manual_seed(0)
    model = build_mae(config.model, config.data.mean, config.data.std)
    shape = (case.batch_size, config.model.in_chans, *model.img_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8).to(accelerator.device)
    if case.implementation == OURS:
        return our_step(model, config, images, accelerator)
    other = {TEXTBOOK: TextbookLoss, TRANSFORMERS: TransformersLoss}[case.implementation](model)
    return plain_step(other, config, images, accelerator)


def our_step(
    model: MaskedAutoencoder, config: Config, images: Tensor, accelerator: Accelerator
) -> Step:
    """What mae/loop.py does between two batches, guard and meter included."""
    device = accelerator.device
    keep_freed_memory(device)  # as a run does at its start
    model.to(device).train()
    compile_step(model, config.train)
    prepared, optimizer = prepare(model, build_optimizer(model, config.optim), accelerator)
    meter, words = Meter(device), torch.arange(len(images), device=device)
    taken = 0

    def step() -> Tensor:
        nonlocal taken
        taken += 1
        begin_step(config.train)
        set_lr(optimizer, LR)
        output = prepared(images, model.draw(images, words + taken * len(images)))
        accelerator.backward(output.loss)
        meter.add(output)
        meter.end_step(taken, skip_if_not_finite(optimizer.optimizer))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.after_step(taken)
        if taken % REPORT_EVERY == 0:
            meter.read(lambda sums: sums)
        return output.loss.detach()

    return step


def plain_step(model: nn.Module, config: Config, images: Tensor, accelerator: Accelerator) -> Step:
    """The same for others: the same optimizer and precision, without guard and meter."""
    model.to(accelerator.device).train()
    compile_step(model, config.train, may_break=True)
    optimizer = build_optimizer(model, config.optim)

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
        return self.textbook(images, PatchSplit(shuffle[:, :visible], shuffle[:, visible:])).loss


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
        raise UserError("bench peers: needs transformers (pip install 'mae[test]')") from None
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, VisionTransformer)
    block: Any = encoder.blocks[0]
    light: Any = decoder.blocks[0]
    height, width = model.img_size
    patch, other = model.patch_size
    if height != width or patch != other or encoder.num_prefix_tokens != 1:
        raise UserError("bench peers: transformers' ViTMAE is square and has one class token")
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
