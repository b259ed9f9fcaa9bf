"""Changes of settings between the starts of a run: which are allowed."""

from mae.config.sections import Config
from mae.config.types import flatten
from mae.objectives.registry import declaration

FREE_ON_RESUME = (
    "output",
    "data.train",  # the same samples elsewhere: the checkpoint's fingerprint decides
    "data.val",
    "data.workers",
    "data.index_dir",
    "data.cache_dir",
    "data.cache_gb",
    "data.allow_pipe",
    "data.max_bad",
    "train.attention",
    "train.compile",
    "train.grad_checkpointing",
    "train.max_device_batch",
    "train.num_processes",
    "train.checkpoint_every",
    "train.keep_last",
    "train.epochs",  # more of them: the learning rate then follows the longer schedule
    "train.checkpoint_minutes",
    "train.keep_every",
    "train.timeout_minutes",
    "guard.max_skipped",
    "guard.spike",
    "guard.rollback",
    "guard.max_rollbacks",
)
"""Settings that do not decide what is learned: they may change between the starts of a run."""


def differing_keys(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """`key: old → new` for what changed: what a resumed run must not change, and what it may."""
    before, after = (flatten(c.model_dump(mode="json")) for c in (old, new))
    measured = {"data.mean", "data.std"} if old.data.own_statistics else set()
    measured |= declaration(new.objective).measured(new)
    decisive, free = [], []
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key) and key not in measured:
            is_free = key in FREE_ON_RESUME or key.startswith("log.")
            (free if is_free else decisive).append(f"{key}: {before.get(key)} → {after.get(key)}")
    return decisive, free
