"""Masked Autoencoder (He et al. 2021, "Masked Autoencoders Are Scalable Vision Learners")."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.networks.pixels import (
    Affine,
    computable,
    gather_tokens,
    normalize_images,
    patch_statistics,
    patchify,
    pixel_affine,
    unpatchify,
)
from mae.networks.vit import build_encoder, forward_visible, initialize_encoder
from mae.objectives.base import Features, Objective, Output, Reconstruction
from mae.objectives.mae.declaration import model_of
from mae.objectives.mae.decoder import CrossDecoder, Decoder
from mae.objectives.mae.masking import PatchSplit, num_visible, random_masking


class MaskedAutoencoder(Objective):
    """Encoder on visible patches, light decoder, mean squared error on hidden patches.

    Images come as uint8 (or with `bits` = 16 as uint16), [b c h w]: they are scaled to [0, 1] and
    normalised by `mean` and `std` (per channel) here, on the device.  Floating-point images count
    as normalised already.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        mask_ratio: float = 0.75,
        norm_pix_loss: bool = True,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        decoder_attention: Literal["joint", "cross"] = "joint",
        prediction_ratio: float = 0.0,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        bits: int = 8,
    ) -> None:
        """Initialise `encoder` as in the paper and put a decoder behind it.

        Raises UserError where `mask_ratio` leaves no patch visible or none hidden,
        `prediction_ratio` asks for none or for more than are hidden, or `mean` and `std` are not
        one number per channel.
        """
        super().__init__()
        self.patch_size = tuple(encoder.patch_embed.patch_size)
        self.img_size = tuple(encoder.patch_embed.img_size)
        self.num_patches = encoder.patch_embed.num_patches
        self.mask_ratio = mask_ratio
        self.norm_pix_loss = norm_pix_loss
        visible = num_visible(self.num_patches, mask_ratio)
        if not 0 < visible < self.num_patches:
            raise UserError(
                f"model.mask_ratio: {mask_ratio} leaves {visible} of {self.num_patches} patches "
                "visible; at least one must be visible and one hidden"
            )
        channels = encoder.patch_embed.proj.in_channels
        self.white = 2**bits - 1
        affine = pixel_affine(mean, std, channels, self.white)
        self.register_buffer("pixel_scale", affine.scale, persistent=False)
        self.register_buffer("pixel_shift", affine.shift, persistent=False)

        self.encoder = encoder
        initialize_encoder(encoder)
        p, q = self.patch_size
        sizes = (
            decoder_embed_dim,
            decoder_depth,
            decoder_num_heads,
            encoder.patch_embed.grid_size,
            encoder.num_prefix_tokens,
            p * q * channels,
        )
        self.decoder: Decoder | CrossDecoder
        if decoder_attention == "cross":
            self.decoder = CrossDecoder(encoder.embed_dim, len(encoder.blocks), *sizes)
        else:
            self.decoder = Decoder(encoder.embed_dim, *sizes)
        hidden = self.num_patches - visible
        self.num_predicted: int | None = None
        """of the hidden patches, in a step; None: all, however many there are"""
        if prediction_ratio:
            self.num_predicted = int(self.num_patches * prediction_ratio)
            if not 0 < self.num_predicted <= hidden:
                raise UserError(
                    f"model.prediction_ratio: {prediction_ratio} of {self.num_patches} patches are "
                    f"{self.num_predicted}, but there are 1 to {hidden} hidden ones to predict"
                )

    def draw(
        self,
        images: Shaped[Tensor, "b c h w"],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> PatchSplit:
        """Which patches to hide: a pure function of `seeds`."""
        return random_masking(seeds, self.num_patches, self.mask_ratio)

    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: PatchSplit, progress: Float[Tensor, ""]
    ) -> Output:
        """Encode what is visible, predict what is hidden, compare."""
        patches = self.patchify(images)
        asked = PatchSplit(noise.ids_keep, noise.ids_masked[:, : self.num_predicted])
        features = self.forward_encoder(patches, asked.ids_keep)
        prediction = self.decoder(features, asked)
        return self.forward_loss(patches, prediction, asked.ids_masked)

    def predict(
        self, patches: Shaped[Tensor, "b n values"], split: PatchSplit
    ) -> Float[Tensor, "b masked values"]:
        """What the model makes of all hidden patches."""
        return self.decoder(self.forward_encoder(patches, split.ids_keep), split)

    def patchify(self, images: Shaped[Tensor, "b c h w"]) -> Shaped[Tensor, "b n values"]:
        """Patches of images, in the images' own numbers."""
        return patchify(computable(images), self.patch_size)

    def forward_encoder(
        self, patches: Shaped[Tensor, "b n values"], ids_keep: Int[Tensor, "b k"]
    ) -> list[Float[Tensor, "b tokens d"]]:
        """Encode the patches named by `ids_keep`; the others are never touched."""
        visible = self.normalize(gather_tokens(patches, ids_keep))
        return forward_visible(self.encoder, visible, ids_keep)

    def forward_loss(
        self,
        patches: Shaped[Tensor, "b n values"],
        prediction: Float[Tensor, "b m values"],
        ids_masked: Int[Tensor, "b m"],
    ) -> Output:
        """Mean squared error over the hidden patches (paper, section 3)."""
        target = self.target(patches, ids_masked)
        loss = (prediction.to(target.dtype) - target).square().mean()
        moments = {"target_mean": target.mean(), "target_square": target.square().mean()}
        return Output(
            {"reconstruction": loss}, {key: one.detach() for key, one in moments.items()}, {}
        )

    def target(
        self, patches: Shaped[Tensor, "b n values"], ids_masked: Int[Tensor, "b m"]
    ) -> Float[Tensor, "b m values"]:
        """What the decoder is to predict: hidden pixels, with `norm_pix_loss` per-patch normal."""
        target = self.normalize(gather_tokens(patches, ids_masked))
        if self.norm_pix_loss:
            mean, std = patch_statistics(target)
            target = (target - mean) / std
        return target

    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """The `forward_features` of timm on whole images: nothing is ever masked here."""
        tokens = self.encoder.forward_features(self.normalize_images(images))
        patch_tokens = tokens[:, self.encoder.num_prefix_tokens :]
        pooled = {"mean": patch_tokens.mean(dim=1)}
        if self.encoder.has_class_token:
            pooled["cls"] = tokens[:, 0]
        return Features(pooled, patch_tokens)

    def encoder_module(self) -> VisionTransformer:
        """The encoder."""
        return self.encoder

    @torch.no_grad()
    def reconstruct(self, images: Shaped[Tensor, "b c h w"], split: PatchSplit) -> Reconstruction:
        """Fill in the hidden patches.

        A model trained on normalised targets predicts each patch's structure, not its mean and
        contrast: both are taken from the true patch, as in the paper's own figures.
        """
        patches = self.patchify(images)
        prediction = self.predict(patches, split).float()
        pixels = self.normalize(patches)
        if self.norm_pix_loss:
            mean, std = patch_statistics(gather_tokens(pixels, split.ids_masked))
            prediction = prediction * std + mean
        ids = split.ids_masked[:, :, None].expand_as(prediction)
        filled = self._to_images(pixels.scatter(1, ids, prediction))
        hidden = torch.zeros_like(pixels).scatter(1, ids, 1.0)
        channels = (1, -1, 1, 1)
        unit = (filled - self.pixel_shift.view(channels)) / self.pixel_scale.view(channels)
        return Reconstruction((unit / self.white).clamp(0, 1), self._to_images(hidden))

    def normalize(self, patches: Shaped[Tensor, "b n values"]) -> Float[Tensor, "b n values"]:
        """uint8 patches (channels last) to normalised floats; floats pass unchanged."""
        if patches.is_floating_point():
            return patches
        pixels = patches.unflatten(-1, (-1, self.pixel_scale.numel()))
        return (pixels * self.pixel_scale + self.pixel_shift).flatten(-2)

    def normalize_images(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same for images."""
        return normalize_images(images, Affine(self.pixel_scale, self.pixel_shift))

    def _to_images(self, patches: Float[Tensor, "b n values"]) -> Float[Tensor, "b c h w"]:
        return unpatchify(patches, self.img_size, self.patch_size)


def build_mae(config: Config) -> MaskedAutoencoder:
    """The model that the settings describe, freshly initialised from torch's generator."""
    model, data = model_of(config), config.data
    encoder = build_encoder(
        model.encoder,
        img_size=data.img_size,
        patch_size=model.patch_size,
        in_chans=data.in_chans,
        **model.encoder_kwargs,
    )
    return MaskedAutoencoder(
        encoder,
        mask_ratio=model.mask_ratio,
        norm_pix_loss=model.norm_pix_loss,
        decoder_embed_dim=model.decoder_embed_dim,
        decoder_depth=model.decoder_depth,
        decoder_num_heads=model.decoder_num_heads,
        decoder_attention=model.decoder_attention,
        prediction_ratio=model.prediction_ratio,
        mean=data.mean,
        std=data.std,
        bits=data.bits,
    )
