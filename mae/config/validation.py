"""Validation across settings: conflicts, and changes allowed when a run resumes."""

from collections.abc import Collection, Iterator

from mae.base.redaction import for_record
from mae.config.choices import plain
from mae.config.sections import Config, DataConfig
from mae.config.types import flatten
from mae.objectives.registry import OBJECTIVES, data_needs, declaration

USUAL_WARMUP = 0.1
"""share of the epochs that is proposed for the warm-up"""


def conflicting_settings(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, message) for every setting that conflicts with another."""
    data, optim, train = config.data, config.optim, config.train
    if optim.warmup_epochs >= train.epochs:
        fitting = plain(USUAL_WARMUP * train.epochs)
        message = (
            f"{optim.warmup_epochs:g}, but train.epochs is only {train.epochs:g}: give "
            f"optim.warmup_epochs={fitting}, too"
        )
        yield "optim.warmup_epochs", message
    yield from conflicting_data(data, train.batch_size)
    for key, numbers in (("mean", data.mean), ("std", data.std)):
        if len(numbers) != data.in_chans and not data.own_statistics:
            yield (
                f"data.{key}",
                f"{len(numbers)} numbers for data.in_chans = {data.in_chans} "
                "(data.own_statistics=true measures them)",
            )
    if data.decode_on_device and (data.bits != 8 or data.in_chans not in (1, 3)):
        message = f"is for JPEGs, not for {data.in_chans} channels of {data.bits} bits"
        yield "data.decode_on_device", message
    declared = declaration(config.objective)
    yield from float_conflicts(config)
    if declared.needs_img_size and data.img_size is None:
        yield "data.img_size", f"objective {declared.name} has no default size: set it"
    yield from native_crops_conflicts(config)
    yield from declared.validate(config)
    if optim.lr is None and optim.blr == 0:
        yield "optim.blr", "must be above 0"


RESIZING = ("scale", "ratio", "oversized", "crop_pct", "crop_on_device", "decode_on_device")
"""settings of `data` on crops that are resized"""


def float_conflicts(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, message) for settings that do not go with floats."""
    data = config.data
    if not data.is_float:
        return
    if not declaration(config.objective).reads_floats:
        able = [name for name in OBJECTIVES if declaration(name).reads_floats]
        yield "data.bits", f"32 (floats) is for {', '.join(able)}, not for {config.objective}"
    usual = DataConfig()
    if (data.mean, data.std) == (usual.mean, usual.std) and not data.own_statistics:
        yield "data.mean", "is ImageNet's, of pixels: for floats set data.own_statistics=true"


def native_crops_conflicts(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, message) for settings that an objective with native crops does not use."""
    data, declared = config.data, declaration(config.objective)
    needs = data_needs(config)
    if not needs.native_crops:
        return
    defaults = DataConfig(), DataConfig.model_validate(declared.defaults.get("data", {}))
    for key in RESIZING:
        if getattr(data, key) not in [getattr(one, key) for one in defaults]:
            who = "data.bits=32" if data.is_float else f"objective {declared.name}"
            yield f"data.{key}", f"{who} does not resize images: remove it"
    if needs.quarter_turns and data.img_size and len(set(data.img_size)) > 1:
        yield "data.img_size", f"objective {declared.name} turns its crops: they must be square"


def conflicting_data(data: DataConfig, batch_size: int) -> Iterator[tuple[str, str]]:
    """Yield (key, message) for every setting of order and crops that conflicts with another."""
    for key, (low, high) in (("scale", data.scale), ("ratio", data.ratio)):
        if not 0 < low <= high:
            yield f"data.{key}", f"[{low:g}, {high:g}] is no range of positive numbers"
    if data.scale[1] > 1:
        yield "data.scale", f"a crop of {data.scale[1]:g} times the image's area is impossible"
    if data.train and data.mixture:
        yield "data.mixture", "replaces data.train: give one of the two"
    weights = [part.weight for part in data.mixture]
    if weights and min(weights) < sum(weights) / 1000:
        yield "data.mixture", "a weight below a thousandth of the sum is never drawn exactly"
    for key, divisor in (("lanes", data.lanes), ("repeats", data.repeats)):
        if batch_size % divisor and (key != "lanes" or data.order == "lanes"):
            yield f"data.{key}", f"{divisor} does not divide train.batch_size = {batch_size}"


FREE_ON_RESUME = (
    "output",
    "data.train",  # the shards may have moved; the checkpoint's fingerprint checks their contents
    "data.val",
    "data.workers",
    "data.index_dir",
    "data.cache_dir",
    "data.cache_gb",
    "data.packed_dir",
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
    "optim.warmup_epochs",  # goes with them
    "train.checkpoint_minutes",
    "train.keep_every",
    "train.timeout_minutes",
    "guard.max_skipped",
    "guard.spike",
    "guard.rollback",
    "guard.max_rollbacks",
)
"""settings that may change between the starts of a run, besides those of `log`"""


INTERVALS = ("train.checkpoint_every", "log.panel_every", "log.health_every")
"""intervals that, where they are not set, are shares of a short run"""


def changed_settings(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Changed settings as `key: old → new`: (fixed for a resumed run, free to change).

    Settings that a run measures itself, such as data.mean, the name of the recipe and the reasons
    of chosen settings are not compared.
    """
    # As recorded, without secrets: a new signature of the same address is no change.
    before, after = (flatten(for_record(one.model_dump(mode="json"))) for one in (old, new))
    measured = {"data.mean", "data.std"} if old.data.own_statistics else set()
    measured |= declaration(new.objective).completed_keys(new) | {"auto"}
    # Without a number they follow from the length of the run, once that is known.
    measured |= {key for key in INTERVALS if after.get(key) is None}
    measured.add("recipe")  # its name alone; a difference in settings is one of other keys
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
