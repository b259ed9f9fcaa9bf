"""Classification with all of fine-tuning's regularisers (He et al. 2021, appendix A.1, table 9)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from timm.data import Mixup
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.config.sections import Config
from mae.networks.pixels import Affine, normalize_images, pixel_affine
from mae.networks.vit import check_sizes, create_vit
from mae.objectives.base import Features, Objective, Output
from mae.objectives.classifier.declaration import FinetuneConfig, finetune_of, model_of

HEAD_STD = 2e-5
"""of the classifier's first weights: fine-tuning starts from the features, not from noise"""


class Mixed(NamedTuple):
    """What one forward pass sees."""

    images: Float[Tensor, "b c h w"]
    """normalised, erased in places, mixed"""
    targets: Float[Tensor, "b classes"]
    """probabilities"""


class Classifier(Objective):
    """A timm ViT with a head, learning classes from mixed images and softened labels."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(
        self,
        encoder: VisionTransformer,
        settings: FinetuneConfig,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        bits: int = 8,
    ) -> None:
        """`encoder` has a head of `settings.num_classes` classes, at least 1.

        Raises UserError where `mean` and `std` are not one number per channel.
        """
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        self.patch_size = tuple(encoder.patch_embed.patch_size)
        self.img_size = tuple(encoder.patch_embed.img_size)
        self.white = 2**bits - 1
        channels = encoder.patch_embed.proj.in_channels
        affine = pixel_affine(mean, std, channels, self.white)
        self.register_buffer("pixel_scale", affine.scale, persistent=False)
        self.register_buffer("pixel_shift", affine.shift, persistent=False)
        assert isinstance(encoder.head, nn.Linear)
        nn.init.trunc_normal_(encoder.head.weight, std=HEAD_STD)
        nn.init.zeros_(encoder.head.bias)

    def draw(
        self,
        images: Shaped[Tensor, "b c h w"],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Mixed:
        """Random erasing, then mixup or cutmix of the batch with itself reversed.

        timm's, which draw from the generators of Python, NumPy and torch, not from `seeds`.
        """
        assert labels is not None
        use = self.settings
        pixels = self.normalize_images(images).clone()
        if use.random_erasing:
            erase = RandomErasing(use.random_erasing, mode="pixel", device=str(pixels.device))
            pixels = erase(pixels)
        if use.mixup or use.cutmix:
            mix = Mixup(
                use.mixup,
                use.cutmix,
                label_smoothing=use.label_smoothing,
                num_classes=use.num_classes,
            )
            return Mixed(*mix(pixels, labels))
        return Mixed(pixels, mixup_target(labels, use.num_classes, 1.0, use.label_smoothing))

    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: Mixed, progress: Float[Tensor, ""]
    ) -> Output:
        """Cross-entropy with the mixed targets; `images` themselves are not looked at again."""
        logits = self.encoder(noise.images).float()
        loss = F.cross_entropy(logits, noise.targets)
        with torch.no_grad():
            chosen = logits.argmax(1)
            right = (chosen == noise.targets.argmax(1)).float().mean()
            confidence = logits.softmax(1).amax(1).mean()
        return Output({"cross_entropy": loss}, {"right": right, "confidence": confidence}, {})

    def logits(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Class scores of whole images as they are."""
        return self.encoder(self.normalize_images(images))

    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Tokens before the head.

        With `global_pool` avg without the norm, which then follows the mean.
        """
        vit = self.encoder
        tokens = vit.forward_features(self.normalize_images(images))
        patch_tokens = tokens[:, vit.num_prefix_tokens :]
        pooled = {"mean": patch_tokens.mean(dim=1)}
        if vit.has_class_token:
            pooled["cls"] = tokens[:, 0]
        return Features(pooled, patch_tokens)

    def encoder_module(self) -> VisionTransformer:
        """The encoder."""
        return self.encoder

    def normalize_images(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Integer images as the encoder takes them; floats pass unchanged."""
        return normalize_images(images, Affine(self.pixel_scale, self.pixel_shift))


def build_classifier(config: Config) -> Classifier:
    """The classifier that the settings describe, freshly initialised from torch's generator."""
    model, data, finetune = model_of(config), config.data, finetune_of(config)
    vit = create_vit(
        model.encoder,
        img_size=data.img_size,
        patch_size=model.patch_size,
        in_chans=data.in_chans,
        num_classes=finetune.num_classes,
        global_pool=finetune.global_pool,
        drop_path_rate=finetune.drop_path,
        **model.encoder_kwargs,
    )
    return Classifier(check_sizes(vit), finetune, mean=data.mean, std=data.std, bits=data.bits)
