"""Other implementations of the training step: the paper's, step by step, and transformers'."""

from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float, Shaped
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.commands.bench import training_step
from mae.commands.bench.cases import OURS, Case
from mae.commands.bench.training_step import LR, TimedStep, synthetic_images
from mae.config.sections import Config
from mae.networks.encoders.plain import position_embedding
from mae.networks.patches import gather_tokens, patch_statistics, patchify
from mae.networks.vit import parameter_groups
from mae.objectives.base import Output, total_loss
from mae.objectives.mae.decoder import Decoder
from mae.objectives.mae.masking import PatchSplit, binary_mask, num_visible
from mae.objectives.mae.model import MaskedAutoencoder, build_mae
from mae.training.optim import build_optimizer, set_lr
from mae.training.plan import build_accelerator
from mae.training.step import begin_step, compile_step

TEXTBOOK, TRANSFORMERS = "textbook", "transformers"
IMPLEMENTATIONS = (OURS, TEXTBOOK, TRANSFORMERS)


def build_step(case: Case) -> TimedStep:
    """Build the training step of `case`, of any implementation.

    Raises UserError for invalid settings, without transformers, and for models that its ViTMAE
    does not support.
    """
    if case.implementation == OURS:
        return training_step.build_step(case)
    config = case.config()
    accelerator = build_accelerator(config.train)
    torch.manual_seed(0)
    model = build_mae(config)
    images = synthetic_images(config, model.img_size, case.batch_size).to(accelerator.device)
    other = {TEXTBOOK: TextbookLoss, TRANSFORMERS: TransformersLoss}[case.implementation](model)
    return plain_step(other, config, images, accelerator)


def plain_step(
    model: nn.Module, config: Config, images: Tensor, accelerator: Accelerator
) -> TimedStep:
    """Plain training step with our optimizer and precision, without guard and meter."""
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


class TextbookStep(nn.Module):
    """Loss of a `MaskedAutoencoder` with its weights, computed as in the paper, step by step.

    Every patch is projected, then most are dropped; the decoder's tokens are put back in order; all
    patches are decoded, predicted and compared, and the visible ones masked out of the mean (He et
    al. 2022, section 3, "Simple implementation").  A reference for our step, which skips what does
    not change the loss.
    """

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Shaped[Tensor, "b c h w"], noise: PatchSplit) -> Output:
        """Compute the model's loss; equal up to rounding, gradients included."""
        model, (ids_keep, ids_masked) = self.model, noise
        encoder, decoder = model.encoder, model.decoder
        assert isinstance(encoder, VisionTransformer) and isinstance(decoder, Decoder)
        pixels = model.normalize_images(images)

        prefix, positions = encoder.num_prefix_tokens, position_embedding(encoder)
        patches = encoder.patch_embed(pixels) + positions[:, prefix:]
        x = gather_tokens(patches, ids_keep)
        if encoder.cls_token is not None:
            first = encoder.cls_token + positions[:, :1]
            x = torch.cat([first.expand(x.shape[0], -1, -1), x], dim=1)
        latent = encoder.norm(encoder.blocks(x))

        y = decoder.embed(latent)
        mask_tokens = decoder.mask_token.expand(*ids_masked.shape, -1)
        shuffled = torch.cat([y[:, prefix:], mask_tokens.to(y.dtype)], dim=1)
        ids_restore = torch.cat([ids_keep, ids_masked], dim=1).argsort(dim=1)
        y = torch.cat([y[:, :prefix], gather_tokens(shuffled, ids_restore) + decoder.pos_embed], 1)
        for block in decoder.blocks:
            y = block(y)
        prediction = decoder.pred(decoder.norm(y))[:, prefix:]

        return self.loss(pixels, prediction, noise)

    def loss(
        self,
        pixels: Float[Tensor, "b c h w"],
        prediction: Float[Tensor, "b n values"],
        noise: PatchSplit,
    ) -> Output:
        """Mean squared error of all patches, averaged over the masked ones."""
        target = patchify(pixels, self.model.patch_size)
        if self.model.norm_pix_loss:
            mean, std = patch_statistics(target)
            target = (target - mean) / std
        mask = binary_mask(noise).to(target.dtype)
        each = (prediction.to(target.dtype) - target).square().mean(dim=-1)
        loss = (each * mask).sum() / mask.sum()
        moments = {"target_mean": target.mean(), "target_square": target.square().mean()}
        return Output(
            {"reconstruction": loss}, {key: one.detach() for key, one in moments.items()}, {}
        )


class TextbookLoss(nn.Module):
    """`TextbookStep` with random masks from uniform noise, as the paper's code draws them."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.textbook = TextbookStep(model)

    def forward(self, images: Tensor) -> Tensor:
        """Loss of uint8 images [b c h w]."""
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
        """Loss of uint8 images [b c h w]."""
        return self.theirs(pixel_values=images * self.scale + self.shift).loss


def transformers_model(model: MaskedAutoencoder) -> nn.Module:
    """`ViTMAEForPreTraining` with the sizes of our model.

    Raises UserError without transformers, and for models that are not square or have no class
    token.
    """
    try:
        from transformers import ViTMAEConfig, ViTMAEForPreTraining
    except ImportError:
        raise UserError("benchmarks: needs transformers (pip install 'maekit[test]')") from None
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, VisionTransformer)
    block: Any = encoder.blocks[0]
    decoder_block: Any = decoder.blocks[0]
    height, width = model.img_size
    patch_height, patch_width = model.patch_size
    if height != width or patch_height != patch_width or encoder.num_prefix_tokens != 1:
        raise UserError("benchmarks: transformers' ViTMAE is square and has one class token")
    config = ViTMAEConfig(
        hidden_size=encoder.embed_dim,
        num_hidden_layers=len(encoder.blocks),
        num_attention_heads=block.attn.num_heads,
        intermediate_size=block.mlp.fc1.out_features,
        image_size=height,
        patch_size=patch_height,
        num_channels=encoder.patch_embed.proj.in_channels,
        decoder_hidden_size=decoder.mask_token.shape[-1],
        decoder_num_hidden_layers=len(decoder.blocks),
        decoder_num_attention_heads=decoder_block.attn.num_heads,
        decoder_intermediate_size=decoder_block.mlp.fc1.out_features,
        layer_norm_eps=1e-6,
        mask_ratio=model.mask_ratio,
        norm_pix_loss=model.norm_pix_loss,
    )
    return ViTMAEForPreTraining(config)
