"""Implementation of masked autoencoding: initial weights, evaluation, reconstructions, exports."""

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from mae.base.errors import UserError
from mae.config.loading import parse_recorded_config
from mae.config.sections import Config, DataConfig, InitConfig
from mae.evaluation.health import measure_held_out
from mae.export.contract import Writer
from mae.objectives.base import Objective
from mae.objectives.implementation import AdoptedModel, HeldOut, Implementation
from mae.objectives.mae.decoder import Block, CrossBlock, CrossDecoder, Decoder
from mae.objectives.mae.export import resize_decoder, write_original, write_timm
from mae.objectives.mae.huggingface import write_huggingface
from mae.objectives.mae.model import MaskedAutoencoder, build_mae
from mae.objectives.mae.pictures import reconstruct
from mae.objectives.mae.reconstruction import count_flat, hidden_sums, shares_explained
from mae.pictures.reconstruction import ReconstructionReport, ReconstructionRequest
from mae.pretrained_weights.architecture import (
    WeightOptions,
    decoder_num_heads,
    infer_settings,
    norm_pix_loss,
    set_norm_eps,
)
from mae.pretrained_weights.description import Grid, grid_of
from mae.pretrained_weights.fit import (
    POSITIONS,
    LoadedTensors,
    check_tensors,
    load_encoder,
    shape_mismatch,
    square_grid,
)
from mae.pretrained_weights.init_record import InitialWeights
from mae.pretrained_weights.start import start_encoder
from mae.pretrained_weights.weight_files import Weights
from mae.training.checkpoint.trained import build_objective


def start_mae(model: MaskedAutoencoder, init: InitConfig, data: DataConfig) -> InitialWeights:
    """Load the weights that `init` names into encoder and, where they fit, decoder.

    Raises UserError as `start_encoder`.
    """
    fill = partial(load_decoder, model.decoder, grid=grid_of(model.encoder))
    return start_encoder(model, model.encoder, init, data, fill)


def load_decoder(decoder: Decoder | CrossDecoder, weights: Weights, grid: Grid) -> LoadedTensors:
    """Load all weights of `decoder`, or none where the source's has another architecture or size.

    `grid`: rows and columns of patches.  Raises UserError where fitting weights are damaged.
    """
    own = decoder.state_dict()
    source = dict(weights.decoder)
    if POSITIONS in source:
        source[POSITIONS] = decoder_positions(
            source[POSITIONS], decoder.num_prefix_tokens, grid, weights.geometry.grid
        )
    blocks = (block for block in decoder.blocks if isinstance(block, Block | CrossBlock))
    heads = {block.attn.num_heads for block in blocks}
    others = [key for key in own if key in source and source[key].shape != own[key].shape]
    reason = None
    if source.keys() != own.keys():
        reason = "a decoder of another architecture"
    elif others:
        reason = "a decoder of other sizes"
    elif weights.geometry.decoder_num_heads not in (None, *heads):
        reason = "a decoder with other attention heads"
    if reason or not source:
        skipped = {f"decoder.{key}": str(reason) for key in source}
        return LoadedTensors(0, len(own), tuple(own), skipped, ())
    check_tensors(source, own, f"init.from: {weights.name}: decoder")
    decoder.load_state_dict(source, strict=True)
    return LoadedTensors(len(own), len(own), (), {}, ())


def decoder_positions(tensor: Tensor, prefix: int, grid: Grid, old_grid: Grid | None) -> Tensor:
    """Decoder positions [1 patches d], interpolated to `grid`.

    Rows of zeros for `prefix` tokens, as in other implementations, are removed first.
    """
    if tensor.ndim != 3:
        return tensor
    for before in (0, prefix):
        patches = tensor.shape[1] - before
        source_grid = old_grid or (grid if patches == prod(grid) else square_grid(patches))
        if source_grid and patches == prod(source_grid) and not tensor[:, :before].any():
            return resample_abs_pos_embed(tensor[:, before:], list(grid), list(source_grid), 0)
    return tensor


def adopt_mae(weights: Weights, options: WeightOptions) -> AdoptedModel:
    """Build the Masked Autoencoder that holds `weights`, without a decoder where they have none.

    Raises UserError where a tensor is missing, unknown or does not fit.
    """
    inferred = infer_settings(weights, options)
    assumed, source = list(inferred.assumed), weights.decoder
    model = dict(inferred.model)
    if source:
        model |= _decoder_settings(weights, options, assumed)
    settings = {"objective": "mae", "model": model, "data": inferred.data}
    config = parse_recorded_config(settings, weights.name)
    objective = build_objective(config)
    assert isinstance(objective, MaskedAutoencoder)
    set_norm_eps(objective, weights.geometry.eps)
    loaded = load_encoder(objective.encoder, weights, hint="")
    parts, skipped = {"encoder": loaded}, dict(loaded.skipped)
    if source:
        decoder = load_decoder(objective.decoder, weights, grid_of(objective.encoder))
        if not decoder.tensors:
            raise UserError(f"{weights.name}: decoder: {_misfit(objective.decoder, source)}")
        parts["decoder"] = decoder
    else:
        del objective.decoder  # random weights must not be used as if they were trained
    return AdoptedModel(
        config=config,
        objective=objective,
        parts=parts,
        skipped=skipped,
        notes=loaded.notes,
        assumed=assumed,
        has_decoder=bool(source),
    )


def _decoder_settings(
    weights: Weights, options: WeightOptions, assumed: list[str]
) -> dict[str, Any]:
    source = weights.decoder
    if "mask_token" not in source:
        raise UserError(f"{weights.name}: decoder: lacks mask_token")
    depth = len({key.split(".")[1] for key in source if key.startswith("blocks.")})
    settings: dict[str, Any] = {
        "decoder_embed_dim": source["mask_token"].shape[-1],
        "decoder_depth": max(depth, 1),
        "decoder_num_heads": decoder_num_heads(weights, options, assumed),
        "decoder_attention": "cross" if "mixture" in source else "joint",
        "norm_pix_loss": norm_pix_loss(weights, options, assumed),
    }
    ratio = weights.settings.get("mask_ratio")
    is_known = isinstance(ratio, float) and 0 < ratio < 1
    return settings | ({"mask_ratio": ratio} if is_known else {})


def _misfit(decoder: Decoder | CrossDecoder, source: Mapping[str, Tensor]) -> str:
    """The first tensor of a decoder that is missing, unknown or of another shape."""
    own = decoder.state_dict()
    for key in (*own, *source):
        if key not in source:
            return f"lacks {key}"
        if key not in own:
            return f"{key} has no place in it"
        if source[key].shape != own[key].shape and key != POSITIONS:
            return shape_mismatch(key, source[key], own[key])
    return shape_mismatch(POSITIONS, source[POSITIONS], own[POSITIONS])


class MaeImplementation(Implementation):
    """Implementation of masked autoencoding."""

    exports: ClassVar[Mapping[str, Writer]] = {
        "timm": write_timm,
        "mae": write_original,
        "hf": write_huggingface,
    }

    def build(self, config: Config) -> MaskedAutoencoder:
        """Build the model from the settings, initialised from torch's default generator."""
        return build_mae(config)

    def measure(self, objective: Objective, held_out: HeldOut) -> Mapping[str, Any]:
        """Evaluate feature health, R² on hidden patches beside trivial predictors, flat patches."""
        assert isinstance(objective, MaskedAutoencoder)

        def own_sums(images: Tensor, seeds: Tensor) -> npt.NDArray[np.float64]:
            flat = count_flat(objective, images)
            return np.concatenate([flat, hidden_sums(objective, images, seeds)])

        health, totals = measure_held_out(objective, held_out, own_sums)
        flat, patches, *sums = totals.tolist()
        r2, r2_patch_mean, r2_interpolation = shares_explained(*sums)
        r2s = {"r2": r2, "r2_interpolation": r2_interpolation, "r2_patch_mean": r2_patch_mean}
        return {**health._asdict(), **r2s, "flat_patches": flat / patches}

    def reconstruct(
        self, objective: Objective, request: ReconstructionRequest
    ) -> ReconstructionReport:
        """Draw the sheet of masked and predicted images; R² beside trivial predictors."""
        assert isinstance(objective, MaskedAutoencoder)
        return reconstruct(objective, request)

    def load_initial(self, objective: Objective, config: Config) -> InitialWeights:
        """Load the encoder, and the decoder where the source has one of this architecture."""
        assert isinstance(objective, MaskedAutoencoder)
        return start_mae(objective, config.init, config.data)

    def adopt(self, weights: Weights, options: WeightOptions) -> AdoptedModel | None:
        """Build a Masked Autoencoder for weights without a classifier, or with a decoder."""
        if weights.head and not weights.decoder:
            return None
        return adopt_mae(weights, options)

    def after_resize(self, objective: Objective, old_grid: tuple[int, int]) -> None:
        """Interpolate the decoder's positions."""
        assert isinstance(objective, MaskedAutoencoder)
        if hasattr(objective, "decoder"):  # else weights of others, of an encoder alone
            resize_decoder(objective, old_grid)


IMPLEMENTATION = MaeImplementation()
