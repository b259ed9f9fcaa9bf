"""Masked Autoencoder (He et al. 2021, "Masked Autoencoders Are Scalable Vision Learners")."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.decoding.pixels import FLOAT_BITS, white_of
from mae.networks.encoders.registry import TimmEncoder, adapter_of
from mae.networks.patches import (
    Affine,
    affine_of,
    computable,
    gather_tokens,
    normalize_images,
    patch_statistics,
    patchify,
    unpatchify,
)
from mae.networks.vit import build_encoder
from mae.objectives.base import Features, Objective, Output
from mae.objectives.capabilities import Reconstruction
from mae.objectives.mae.declaration import model_of
from mae.objectives.mae.decoder import CrossDecoder, Decoder
from mae.objectives.mae.masking import (
    PatchSplit,
    num_visible,
    random_masking,
    random_partition,
)


class MaskedAutoencoder(Objective):
    """Encoder of visible patches, light decoder, mean squared error on hidden patches.

    Images are uint8 (with `bits` = 16 uint16), [b c h w]; the model scales them to [0, 1] and
    normalises them by `mean` and `std` (per channel) on the device.  Floating-point images are
    taken as normalised: always with `bits` 32, whose reconstructions are normalised, too.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(
        self,
        encoder: TimmEncoder,
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
        """Initialise `encoder` as in the paper and add a decoder.

        Raises UserError where `mask_ratio` leaves no patch visible or none hidden,
        `prediction_ratio` selects no patch or more than are hidden, or `mean` and `std` are not
        one number per channel.
        """
        super().__init__()
        self.adapter = adapter_of(encoder)
        shape = self.adapter.shape(encoder)
        self.patch_size, self.img_size = shape.patch_size, shape.img_size
        self.num_patches = shape.num_patches
        self.mask_ratio = mask_ratio
        self.norm_pix_loss = norm_pix_loss
        self.units = self.adapter.mask_units(encoder)
        """patches of each mask unit, [units, patches]; no buffer: nothing to synchronise"""
        units, per_unit = self.units.shape
        visible = num_visible(units, mask_ratio)
        if not 0 < visible < units:
            what = "patches" if per_unit == 1 else f"mask units of {per_unit} patches"
            raise UserError(
                f"model.mask_ratio: {mask_ratio} leaves {visible} of {units} {what} visible; at "
                "least one must be visible and one hidden"
            )
        channels = shape.in_chans
        self.white, self.is_float = white_of(bits), bits == FLOAT_BITS
        affine = affine_of(mean, std, channels, bits)
        self.register_buffer("pixel_scale", affine.scale, persistent=False)
        self.register_buffer("pixel_shift", affine.shift, persistent=False)

        self.encoder = encoder
        self.adapter.initialize(encoder)
        p, q = self.patch_size
        build_decoder = Decoder
        if decoder_attention == "cross":
            if {*shape.widths} != {shape.embed_dim}:
                raise UserError(
                    "model.decoder_attention: cross reads all blocks of the encoder, and those of "
                    "this one differ in width: use joint"
                )
            build_decoder = partial(CrossDecoder, encoder_depth=len(shape.widths))
        self.decoder: Decoder | CrossDecoder = build_decoder(
            encoder_dim=shape.embed_dim,
            dim=decoder_embed_dim,
            depth=decoder_depth,
            num_heads=decoder_num_heads,
            grid_size=shape.grid_size,
            num_prefix_tokens=shape.num_prefix_tokens,
            patch_values=p * q * channels,
        )
        self.decoder.fusion = self.adapter.build_fusion(encoder)
        hidden = self.num_patches - visible * per_unit
        self.num_predicted: int | None = None
        """number of hidden patches that are predicted in a training step (None: all)"""
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
        """Random masks: a pure function of `seeds`."""
        return self.of_units(random_masking(seeds, len(self.units), self.mask_ratio))

    def of_units(self, split: PatchSplit) -> PatchSplit:
        """Split of mask units → the split of their patches."""
        if self.units.shape[1] == 1:
            return split
        self.units = self.units.to(split.ids_keep.device)
        return PatchSplit(*(self.units[ids].flatten(1) for ids in split))

    def covering_noises(
        self, images: Shaped[Tensor, "b c h w"], seeds: Int[Tensor, " b"]
    ) -> list[PatchSplit]:
        """Masks that hide disjoint parts and together every patch, each about `mask_ratio` at most.

        Two halves for a mask_ratio above .5: disjoint parts cannot be larger.
        """
        units = len(self.units)
        parts = min(max(2, round(1 / max(self.mask_ratio, 1 / units))), units)
        return [self.of_units(split) for split in random_partition(seeds, units, parts)]

    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: PatchSplit, progress: Float[Tensor, ""]
    ) -> Output:
        """Encoder on the visible patches, decoder for hidden ones, loss (paper, figure 1).

        `noise`: the masks that `draw` returned.  The decoder predicts the first `num_predicted`
        hidden patches: all of them unless model.prediction_ratio is set.
        """
        patches = self.patchify(images)
        split = PatchSplit(noise.ids_keep, noise.ids_masked[:, : self.num_predicted])
        latent = self.forward_encoder(patches, split.ids_keep)
        prediction = self.forward_decoder(latent, split)
        return self.forward_loss(patches, prediction, split.ids_masked)

    def predict(
        self, patches: Shaped[Tensor, "b n values"], split: PatchSplit
    ) -> Float[Tensor, "b masked values"]:
        """Predict all patches of `split.ids_masked`, in the units of the target."""
        return self.forward_decoder(self.forward_encoder(patches, split.ids_keep), split)

    def patchify(self, images: Shaped[Tensor, "b c h w"]) -> Shaped[Tensor, "b n values"]:
        """Split images into patches; integers stay integers."""
        return patchify(computable(images), self.patch_size)

    def forward_encoder(
        self, patches: Shaped[Tensor, "b n values"], ids_keep: Int[Tensor, "b k"]
    ) -> list[Float[Tensor, "b _ _"]]:
        """Encode the patches of `ids_keep` alone; the tokens after each block or stage."""
        visible = self.normalize(gather_tokens(patches, ids_keep))
        return self.adapter.forward_visible(self.encoder, visible, ids_keep)

    def forward_decoder(
        self, latent: Sequence[Float[Tensor, "b _ _"]], split: PatchSplit
    ) -> Float[Tensor, "b m values"]:
        """Predict the pixels of the patches of `split.ids_masked`."""
        if self.decoder.fusion is not None:
            latent = [self.adapter.fuse(self.encoder, self.decoder.fusion, latent)]
        return self.decoder(latent, split)

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
        """Target of the decoder: hidden pixels, with `norm_pix_loss` normalised per patch."""
        target = self.normalize(gather_tokens(patches, ids_masked))
        if self.norm_pix_loss:
            mean, std = patch_statistics(target)
            target = (target - mean) / std
        return target

    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Compute timm's `forward_features` of whole images, without masking."""
        tokens = self.encoder.forward_features(self.normalize_images(images))
        return Features(*self.adapter.split(self.encoder, tokens))

    def encoder_module(self) -> TimmEncoder:
        """Encoder."""
        return self.encoder

    @torch.no_grad()
    def reconstruct(self, images: Shaped[Tensor, "b c h w"], split: PatchSplit) -> Reconstruction:
        """Predict the hidden patches and paste the visible ones in.

        A model trained with `norm_pix_loss` predicts each patch without its mean and contrast:
        both are taken from the true patch, as in the paper's figures.
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
        unit = unit if self.is_float else (unit / self.white).clamp(0, 1)
        return Reconstruction(unit, self._to_images(hidden))

    def normalize(self, patches: Shaped[Tensor, "b n values"]) -> Float[Tensor, "b n values"]:
        """Normalise integer patches (channels last within a patch); floats pass unchanged."""
        if patches.is_floating_point():
            return patches
        pixels = patches.unflatten(-1, (-1, self.pixel_scale.numel()))
        return (pixels * self.pixel_scale + self.pixel_shift).flatten(-2)

    def normalize_images(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise integer images; floats pass unchanged."""
        return normalize_images(images, Affine(self.pixel_scale, self.pixel_shift))

    def _to_images(self, patches: Float[Tensor, "b n values"]) -> Float[Tensor, "b c h w"]:
        return unpatchify(patches, self.img_size, self.patch_size)


def build_mae(config: Config) -> MaskedAutoencoder:
    """Build the model from the settings, initialised from torch's default generator."""
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
