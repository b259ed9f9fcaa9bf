"""A run's first start from weights: what is loaded, told and put on record."""

from collections.abc import Mapping
from itertools import starmap
from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from timm.models.vision_transformer import VisionTransformer

from mae.config import DataConfig, InitConfig
from mae.initial.fit import Loaded, load_decoder, load_encoder
from mae.initial.geometry import grid_of
from mae.initial.pixels import told_difference
from mae.initial.sources import find_weights
from mae.initial.weights import Weights
from mae.models.mae import MaskedAutoencoder
from mae.objective import Objective
from mae.training.checkpoint import checkpoints
from mae.training.run import Run

FRESH = ("head.", "fc_norm.")
"""what a classifier adds to the encoder; `fc_norm` is taken where the source has it"""


FEW = 4
"""tensors that are told by their names"""


class Initial(NamedTuple):
    """What a run started from."""

    lines: list[str]
    """to tell"""
    record: dict[str, Any]
    """for init.json"""


def start_from_weights(
    init: InitConfig, data: DataConfig, objective: Objective, run: Run, accelerator: Accelerator
) -> Initial | None:
    """Load `init.from` into `objective`; None without it, or where the run goes on.

    All processes call it, before the model is wrapped.  A run with a checkpoint has weights of
    its own, and needs the source no more.  Raises UserError as `find_weights` and `load_encoder`.
    """
    if not init.from_:
        return None
    # Files may show late on another machine: the first process sees for all.
    if broadcast_object_list([bool(checkpoints(run.checkpoints))])[0]:
        return None
    with accelerator.main_process_first():  # the first to come downloads, the others find it
        return initialize(objective, init, data)


def initialize(objective: Objective, init: InitConfig, data: DataConfig) -> Initial:
    """Load what `init` names; raises UserError where that is not all that it should be.

    `data` says how the run normalises images, which is told where the source had it otherwise.
    """
    weights = find_weights(init.from_)
    encoder = objective.encoder
    assert isinstance(encoder, VisionTransformer)
    loaded = load_encoder(
        encoder,
        weights,
        adapt_channels=init.adapt_channels,
        adapt_size=init.adapt_size,
        fresh=[key for key in encoder.state_dict() if key.startswith(FRESH)],
    )
    objective.replaced()
    decoder = None
    left_out = {f"decoder.{key}": "the decoder" for key in weights.decoder}
    if isinstance(objective, MaskedAutoencoder):
        decoder = load_decoder(objective.decoder, weights, grid_of(encoder))
        left_out = decoder.left_out
    left_out = loaded.left_out | left_out
    notes = [*weights.notes, *loaded.notes, *told_difference(weights.normalisation, data)]
    return Initial(
        [_counts(weights, loaded, decoder, left_out), *_notes(weights, loaded, notes)],
        {
            "from": weights.name,
            "license": weights.licence.name,
            "non_commercial": weights.licence.non_commercial,
            "from_scratch": weights.licence.from_scratch,
            "history": weights.history,
            "keys_loaded": loaded.tensors + (decoder.tensors if decoder else 0),
            "left_out": left_out,
            "kept": list(loaded.kept),
            "notes": notes,
            "sha256": weights.sha256,
        },
    )


def _counts(
    weights: Weights, encoder: Loaded, decoder: Loaded | None, left_out: Mapping[str, str]
) -> str:
    line = f"init    {encoder.tensors} of {encoder.of} encoder tensors"
    if decoder and decoder.tensors:
        line += f" and {decoder.tensors} of {decoder.of} decoder tensors"
    line += f" from {weights.name}"
    if left_out:
        reasons = {
            reason: [k for k in left_out if left_out[k] == reason] for reason in left_out.values()
        }
        line += f" (left out: {'; '.join(starmap(_group, reasons.items()))})"
    return line


def _notes(weights: Weights, loaded: Loaded, notes: list[str]) -> list[str]:
    lines = [f"init    {note}" for note in notes]
    if kept := [key for key in loaded.kept if key.startswith(FRESH)]:
        lines.append(f"init    {_names(kept)} as initialised: not in the source")
    if weights.licence.non_commercial:
        name = (weights.licence.name or "unknown").upper()
        lines.append(
            f"init    licence {name}: not for commercial use; noted in init.json and the model card"
        )
    return lines


def _group(reason: str, keys: list[str]) -> str:
    """Few tensors by their names, many by what they are together."""
    return f"{_names(keys)}: {reason}" if len(keys) <= FEW else f"{reason} ({len(keys)} tensors)"


def _names(keys: list[str]) -> str:
    if len(keys) <= FEW:
        return ", ".join(keys)
    return f"{keys[0]} to {keys[-1]} ({len(keys)} tensors)"
