"""Classifier with the regularisation of fine-tuning (He et al. 2021, appendix A.1, table 9)."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from timm.data import Mixup
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.networks.encoders.registry import TimmEncoder, adapter_of
from mae.networks.patches import Affine, normalize_images, pixel_affine
from mae.networks.vit import check_sizes, create_vit
from mae.objectives.base import Features, Objective, Output
from mae.objectives.classifier.declaration import FinetuneConfig, finetune_of, model_of

HEAD_STD = 2e-5
"""standard deviation of the head's initial weights, as in the original release"""


class MixedBatch(NamedTuple):
    """Augmented images and their soft targets, the input of one forward pass."""

    images: Float[Tensor, "b c h w"]
    """normalised, with random erasing and mixup or cutmix"""
    targets: Float[Tensor, "b classes"]
    """probabilities of the classes"""


class Classifier(Objective):
    """Vision Transformer of timm with a head, trained on mixed images and soft targets."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(
        self,
        encoder: TimmEncoder,
        settings: FinetuneConfig,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        bits: int = 8,
    ) -> None:
        """Initialise the head of `encoder`, which has `settings.num_classes` outputs (at least 1).

        Raises UserError where `mean` and `std` are not one number per channel.
        """
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        shape = adapter_of(encoder).shape(encoder)
        self.patch_size, self.img_size = shape.patch_size, shape.img_size
        self.white = 2**bits - 1
        affine = pixel_affine(mean, std, shape.in_chans, self.white)
        self.register_buffer("pixel_scale", affine.scale, persistent=False)
        self.register_buffer("pixel_shift", affine.shift, persistent=False)
        head = encoder.get_classifier()
        assert isinstance(head, nn.Linear)
        nn.init.trunc_normal_(head.weight, std=HEAD_STD)
        nn.init.zeros_(head.bias)

    def draw(
        self,
        images: Shaped[Tensor, "b c h w"],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> MixedBatch:
        """Apply random erasing, then mixup or cutmix of the batch with itself reversed.

        Both are timm's: they draw from the generators of Python, NumPy and torch instead of
        `seeds`.
        """
        assert labels is not None
        settings = self.settings
        pixels = self.normalize_images(images).clone()
        if settings.random_erasing:
            erase = RandomErasing(settings.random_erasing, mode="pixel", device=str(pixels.device))
            pixels = erase(pixels)
        if settings.mixup or settings.cutmix:
            mix = Mixup(
                settings.mixup,
                settings.cutmix,
                label_smoothing=settings.label_smoothing,
                num_classes=settings.num_classes,
            )
            return MixedBatch(*mix(pixels, labels))
        targets = mixup_target(labels, settings.num_classes, 1.0, settings.label_smoothing)
        return MixedBatch(pixels, targets)

    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: MixedBatch, progress: Float[Tensor, ""]
    ) -> Output:
        """Compute the cross-entropy of the mixed batch in `noise`; `images` are not used again."""
        logits = self.encoder(noise.images).float()
        loss = F.cross_entropy(logits, noise.targets)
        with torch.no_grad():
            predicted = logits.argmax(1)
            right = (predicted == noise.targets.argmax(1)).float().mean()
            confidence = logits.softmax(1).amax(1).mean()
        return Output({"cross_entropy": loss}, {"right": right, "confidence": confidence}, {})

    def logits(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Compute the class scores of whole images, without augmentation."""
        return self.encoder(self.normalize_images(images))

    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Compute the tokens before the head.

        With `global_pool` = avg they are not normalised: the norm follows the mean.
        """
        vit = self.encoder
        tokens = vit.forward_features(self.normalize_images(images))
        return Features(*adapter_of(vit).split(vit, tokens))

    def encoder_module(self) -> TimmEncoder:
        """Encoder with the head."""
        return self.encoder

    def normalize_images(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise integer images; floats pass unchanged."""
        return normalize_images(images, Affine(self.pixel_scale, self.pixel_shift))


def build_classifier(config: Config) -> Classifier:
    """Build the classifier from the settings, initialised from torch's default generator."""
    model, data, finetune = model_of(config), config.data, finetune_of(config)
    build = partial(
        create_vit,
        model.encoder,
        img_size=data.img_size,
        patch_size=model.patch_size,
        in_chans=data.in_chans,
        num_classes=finetune.num_classes,
        drop_path_rate=finetune.drop_path,
        **model.encoder_kwargs,
    )
    try:
        vit = build(global_pool=finetune.global_pool)
    except UserError:
        if finetune.global_pool == "token":
            with torch.device("meta"):
                other = build(global_pool="avg")
            if not adapter_of(other).shape(other).has_class_token:
                raise UserError(
                    f"finetune.global_pool: token: {model.encoder} has no class token: set "
                    "finetune.global_pool=avg"
                ) from None
        raise
    return Classifier(check_sizes(vit), finetune, mean=data.mean, std=data.std, bits=data.bits)
