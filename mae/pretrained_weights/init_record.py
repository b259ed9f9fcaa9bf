"""Record of the weights that a run started from: lines for the user, and init.json."""

from collections.abc import Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.printable import printable
from mae.base.redaction import redacted
from mae.config.sections import Config, DataConfig
from mae.objectives.registry import declaration
from mae.pretrained_weights.fit import LoadedTensors
from mae.pretrained_weights.licence import OWN_TERMS, Licence
from mae.training.checkpoint.checkpoint_files import TrainingState

MAX_NAMED = 4
"""maximum number of tensors that are listed by name"""


class InitialWeights(NamedTuple):
    """Record of the weights that a run started from."""

    lines: list[str]
    """lines for the user"""
    record: dict[str, Any]
    """content of init.json"""


class WeightsSource(NamedTuple):
    """Source of initial weights."""

    name: str
    """the source, as the user wrote it"""
    sha256: str
    """digest of the file"""
    licence: Licence
    history: str | None
    """description of the training, where the source is a run"""


def record_initial_weights(
    source: WeightsSource,
    parts: Mapping[str, LoadedTensors],
    skipped: Mapping[str, str],
    kept: Sequence[str],
    notes: Sequence[str],
) -> InitialWeights:
    """Lines for the user and record for init.json about loaded weights.

    Args:
        source: origin of the weights.
        parts: name of a part of the model ("": all of it) → its loaded tensors.
        skipped: name of a tensor in the source → reason why it is unused.
        kept: names of tensors with their random initialisation, to be reported.
        notes: further lines for the user.
    """
    return InitialWeights(
        [_counts(source, parts, skipped), *_remarks(source, kept, notes)],
        {
            "from": source.name,
            "license": source.licence.name,
            "non_commercial": source.licence.non_commercial,
            "from_scratch": source.licence.from_scratch,
            "history": source.history,
            "keys_loaded": sum(part.tensors for part in parts.values()),
            "skipped": dict(skipped),
            "kept": [key for part in parts.values() for key in part.kept],
            "notes": list(notes),
            "sha256": source.sha256,
        },
    )


def _counts(
    source: WeightsSource, parts: Mapping[str, LoadedTensors], skipped: Mapping[str, str]
) -> str:
    loaded = [
        f"{part.tensors} of {part.of} {name} tensors".replace("  ", " ")
        for name, part in parts.items()
    ]
    line = f"init    {' and '.join(loaded)} from {source.name}"
    if skipped:
        reasons = {
            reason: [k for k in skipped if skipped[k] == reason] for reason in skipped.values()
        }
        line += f" (skipped: {'; '.join(starmap(_group, reasons.items()))})"
    return line


def _remarks(source: WeightsSource, kept: Sequence[str], notes: Sequence[str]) -> list[str]:
    lines = [f"init    {note}" for note in notes]
    if kept:
        lines.append(f"init    {_names(kept)} as initialised: not in the source")
    if source.licence.non_commercial:
        name = (source.licence.name or "unknown").upper()
        lines.append(
            f"init    licence {name}: not for commercial use; noted in init.json and the model card"
        )
    elif source.licence.name and source.licence.name.endswith(OWN_TERMS):
        lines.append(
            f"init    licence {source.licence.name}: its terms hold for weights trained from these "
            "too; noted in init.json and the model card"
        )
    return lines


def _group(reason: str, keys: Sequence[str]) -> str:
    """Up to MAX_NAMED tensors by their names, more by their common reason."""
    return (
        f"{_names(keys)}: {reason}" if len(keys) <= MAX_NAMED else f"{reason} ({len(keys)} tensors)"
    )


def _names(keys: Sequence[str]) -> str:
    if len(keys) <= MAX_NAMED:
        return ", ".join(keys)
    return f"{keys[0]} to {keys[-1]} ({len(keys)} tensors)"


def history_of(config: Config, state: TrainingState, init: Mapping[str, Any]) -> str:
    """Description of a run's training up to a checkpoint, for model cards.

    `init` is the run's init.json, empty where it has none.
    """
    optim, train = config.optim, config.train
    what = declaration(config.objective).history(config)
    rate = f"blr {optim.blr}" if optim.lr is None else f"lr {optim.lr}"
    text = (
        f"{what} of {data_names(config.data)}, {state.samples:,} images seen in "
        f"{state.step:,} steps of {train.batch_size} ({train.epochs:g} epochs planned), {rate}, "
        f"weight decay {optim.weight_decay}, seed {train.seed}"
    )
    if not config.init.from_:
        return f"{text}, from scratch"
    before = f" ({init['history']})" if init.get("history") else ""
    return f"{text}, from `{shown_source(config.init.from_)}`{before}"


def data_names(data: DataConfig) -> str:
    """File names of the training shards, without their folders and secrets."""
    patterns = [*data.train, *(pattern for part in data.mixture for pattern in part.shards)]
    names = [printable(Path(redacted(pattern)).name).replace("`", "'") for pattern in patterns]
    return ", ".join(f"`{name}`" for name in names)


def shown_source(source: str) -> str:
    """Source without local folders: `timm:NAME` and `hf:ID` as they are, paths shortened."""
    path = Path(source)
    if source.startswith(("timm:", "hf:")) or not path.name:
        return source
    if "checkpoints" in path.parts[1:]:  # RUN/checkpoints/step-…
        return "/".join(path.parts[path.parts.index("checkpoints", 1) - 1 :])
    return path.name
