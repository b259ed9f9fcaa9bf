"""Validation across settings: conflicts, and changes allowed when a run resumes."""

from collections.abc import Collection, Iterator

from mae.base.redaction import for_record
from mae.config.sections import Config
from mae.config.types import flatten
from mae.objectives.registry import declaration


def conflicting_settings(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, message) for every setting that conflicts with another."""
    data, optim, train = config.data, config.optim, config.train
    if optim.warmup_epochs >= train.epochs:
        message = f"{optim.warmup_epochs:g}, but train.epochs is only {train.epochs:g}"
        yield "optim.warmup_epochs", message
    for key, (low, high) in (("scale", data.scale), ("ratio", data.ratio)):
        if not 0 < low <= high:
            yield f"data.{key}", f"[{low:g}, {high:g}] is no range of positive numbers"
    if data.scale[1] > 1:
        yield "data.scale", f"a crop of {data.scale[1]:g} times the image's area is impossible"
    for key, numbers in (("mean", data.mean), ("std", data.std)):
        if len(numbers) != data.in_chans and not data.own_statistics:
            yield (
                f"data.{key}",
                f"{len(numbers)} numbers for data.in_chans = {data.in_chans} "
                "(data.own_statistics=true measures them)",
            )
    if data.train and data.mixture:
        yield "data.mixture", "replaces data.train: give one of the two"
    weights = [part.weight for part in data.mixture]
    if weights and min(weights) < sum(weights) / 1000:
        yield "data.mixture", "a weight below a thousandth of the sum is never drawn exactly"
    if data.decode_on_device and (data.bits != 8 or data.in_chans not in (1, 3)):
        message = f"is for JPEGs, not for {data.in_chans} channels of {data.bits} bits"
        yield "data.decode_on_device", message
    if data.order == "lanes" and train.batch_size % data.lanes:
        yield "data.lanes", f"{data.lanes} does not divide train.batch_size = {train.batch_size}"
    if train.batch_size % data.repeats:
        message = f"{data.repeats} does not divide train.batch_size = {train.batch_size}"
        yield "data.repeats", message
    declared = declaration(config.objective)
    if declared.needs_img_size and data.img_size is None:
        yield "data.img_size", f"objective {declared.name} has no default size: set it"
    yield from declared.validate(config)
    if optim.lr is None and optim.blr == 0:
        yield "optim.blr", "must be above 0"


FREE_ON_RESUME = (
    "output",
    "data.train",  # the shards may have moved; the checkpoint's fingerprint checks their contents
    "data.val",
    "data.workers",
    "data.index_dir",
    "data.cache_dir",
    "data.cache_gb",
    "data.allow_pipe",
    "data.max_bad",
    "data.crop_pct",  # of held-out images only
    "train.attention",
    "train.compile",
    "train.grad_checkpointing",
    "train.max_device_batch",
    "train.num_processes",
    "train.checkpoint_every",
    "train.keep_last",
    "train.epochs",  # the learning rate then follows the new schedule
    "train.checkpoint_minutes",
    "train.keep_every",
    "train.timeout_minutes",
    "guard.max_skipped",
    "guard.spike",
    "guard.rollback",
    "guard.max_rollbacks",
)
"""settings that may change between the starts of a run, besides those of `log`"""


def changed_settings(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Changed settings as `key: old → new`: (fixed for a resumed run, free to change).

    Settings that a run measures itself, such as data.mean, are not compared.
    """
    # As recorded, without secrets: a new signature of the same address is no change.
    before, after = (flatten(for_record(one.model_dump(mode="json"))) for one in (old, new))
    measured = {"data.mean", "data.std"} if old.data.own_statistics else set()
    measured |= declaration(new.objective).completed_keys(new)
    fixed, free = [], []
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key) and not is_within(key, measured):
            is_free = key in FREE_ON_RESUME or key.startswith("log.")
            (free if is_free else fixed).append(f"{key}: {before.get(key)} → {after.get(key)}")
    return fixed, free


def is_within(key: str, keys: Collection[str]) -> bool:
    """True for a dotted key that is one of `keys` or below one."""
    parts = key.split(".")
    return any(".".join(parts[:count]) in keys for count in range(1, len(parts) + 1))
