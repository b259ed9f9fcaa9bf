"""First weights of a Masked Autoencoder: the encoder's, and the decoder's where they fit."""

from functools import partial
from math import prod

from timm.layers import resample_abs_pos_embed
from torch import Tensor

from mae.config.sections import DataConfig, InitConfig
from mae.objectives.mae.cross_decoder import CrossBlock, CrossDecoder
from mae.objectives.mae.decoder import Block, Decoder
from mae.objectives.mae.model import MaskedAutoencoder
from mae.pretrained_weights.description import Grid, grid_of
from mae.pretrained_weights.files import Weights
from mae.pretrained_weights.fit import POSITIONS, Loaded, check_tensors, square_grid
from mae.pretrained_weights.record import Initial
from mae.pretrained_weights.start import start_encoder


def start_mae(model: MaskedAutoencoder, init: InitConfig, data: DataConfig) -> Initial:
    """Load what `init` names into encoder and decoder; UserError as `start_encoder`."""
    fill = partial(load_decoder, model.decoder, grid=grid_of(model.encoder))
    return start_encoder(model, model.encoder, init, data, fill)


def load_decoder(decoder: Decoder | CrossDecoder, weights: Weights, grid: Grid) -> Loaded:
    """Fill all of `decoder` (for this grid of patches), or nothing where the source's is another.

    Raises UserError where one that fits is damaged.
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
        left_out = {f"decoder.{key}": str(reason) for key in source}
        return Loaded(0, len(own), tuple(own), left_out, ())
    check_tensors(source, own, f"init.from: {weights.name}: decoder")
    decoder.load_state_dict(source, strict=True)
    return Loaded(len(own), len(own), (), {}, ())


def decoder_positions(tensor: Tensor, prefix: int, grid: Grid, old_grid: Grid | None) -> Tensor:
    """The decoder's [1 patches d] for this grid; others add rows of zeros for prefix tokens."""
    if tensor.ndim != 3:
        return tensor
    for before in (0, prefix):
        patches = tensor.shape[1] - before
        guess = old_grid or (grid if patches == prod(grid) else square_grid(patches))
        if guess and patches == prod(guess) and not tensor[:, :before].any():
            return resample_abs_pos_embed(tensor[:, before:], list(grid), list(guess), 0)
    return tensor
