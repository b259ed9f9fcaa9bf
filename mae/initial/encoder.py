"""First weights of a Vision Transformer of timm's, for any objective that has one."""

from collections.abc import Callable

from timm.models.vision_transformer import VisionTransformer

from mae.config.sections import DataConfig, InitConfig
from mae.initial.fit import Loaded, load_encoder
from mae.initial.pixels import told_difference
from mae.initial.record import Initial, Source, initial_of
from mae.initial.sources import find_weights
from mae.initial.weights import Weights
from mae.objectives.base import Objective

FRESH = ("head.", "fc_norm.")
"""what a classifier adds to the encoder; `fc_norm` is taken where the source has it"""


def start_encoder(
    objective: Objective,
    encoder: VisionTransformer,
    init: InitConfig,
    data: DataConfig,
    load_decoder: Callable[[Weights], Loaded] | None = None,
) -> Initial:
    """Load what `init` names into `encoder`, a part of `objective`, and call `after_load`.

    `load_decoder` loads the source's decoder, or says why not.  `data` says how the run
    normalises images, which is noted where the source had it otherwise.  Raises UserError as
    `find_weights` and `load_encoder`.
    """
    weights = find_weights(init.from_)
    loaded = load_encoder(
        encoder,
        weights,
        adapt_channels=init.adapt_channels,
        adapt_size=init.adapt_size,
        fresh=[key for key in encoder.state_dict() if key.startswith(FRESH)],
    )
    parts = {"encoder": loaded}
    left_out = {f"decoder.{key}": "the decoder" for key in weights.decoder}
    if load_decoder:
        decoder = load_decoder(weights)
        left_out = decoder.left_out
        if decoder.tensors:
            parts["decoder"] = decoder
    objective.after_load()
    notes = [*weights.notes, *loaded.notes, *told_difference(weights.normalisation, data)]
    return initial_of(
        Source(weights.name, weights.sha256, weights.licence, weights.history),
        parts,
        loaded.left_out | left_out,
        [key for key in loaded.kept if key.startswith(FRESH)],
        notes,
    )
