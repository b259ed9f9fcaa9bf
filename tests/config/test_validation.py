import pytest

from mae.config.loading import load_config
from mae.config.types import flatten
from mae.config.validation import changed_settings
from tests.config.test_loading import refused


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.epochs=30"], "but train.epochs is only 30: give optim.warmup_epochs=3, too"),
        (["data.scale=[0.5, 0.2]"], "data.scale: [0.5, 0.2] is no range of positive numbers"),
        (["data.scale=[0, 1]"], "data.scale: [0, 1] is no range of positive numbers"),
        (["data.scale=[0.5, 1.5]"], "data.scale: a crop of 1.5 times the image's area"),
        (["data.ratio=[2, 1]"], "data.ratio: [2, 1] is no range of positive numbers"),
        (["data.mean=[0.5]"], "data.mean: 1 numbers for data.in_chans = 3"),
        (["data.std=[0.5, 0.5]"], "data.std: 2 numbers for data.in_chans = 3"),
        (["data.train=a.tar", "data.mixture=[{shards: b.tar}]"], "replaces data.train: give one"),
        (
            ["data.mixture=[{shards: a.tar, weight: 2000}, {shards: b.tar}]"],
            "data.mixture: a weight below a thousandth",
        ),
        (["data.order=lanes", "data.lanes=48"], "data.lanes: 48 does not divide train.batch_size"),
        (["data.repeats=3"], "data.repeats: 3 does not divide train.batch_size = 4096"),
        (["model.decoder_embed_dim=500"], "500 must divide by 4 (sine-cosine positions) and by"),
        (["model.decoder_embed_dim=6", "model.decoder_num_heads=3"], "6 must divide by 4"),
        (["model.encoder_kwargs.img_size=96"], "model.encoder_kwargs.img_size: is set elsewhere"),
        (["optim.blr=0"], "optim.blr: must be above 0"),
    ],
)
def test_conflicting_settings(write, overrides, message):
    (line,) = refused(write(""), *overrides)
    assert message in line


def test_all_conflicts_are_reported_with_their_source(write):
    path = write("data: {mean: [0.5], std: [0.5]}\noptim: {warmup_epochs: 9}\ntrain: {epochs: 9}\n")
    hint = "(data.own_statistics=true measures them)"
    assert refused(path, "data.ratio=[2, 1]") == [
        f"{path}: optim.warmup_epochs: 9, but train.epochs is only 9: "
        "give optim.warmup_epochs=0.9, too",
        "command line: data.ratio: [2, 1] is no range of positive numbers",
        f"{path}: data.mean: 1 numbers for data.in_chans = 3 {hint}",
        f"{path}: data.std: 1 numbers for data.in_chans = 3 {hint}",
    ]


def keys(config):
    return list(flatten(config.model_dump(mode="json")))


def test_changed_settings_are_fixed_or_free_on_resume(write):
    path = write("")
    old = load_config(path)
    free = ["output=x", "log.every=1", "data.workers=0", "data.val=v.tar", "data.index_dir=i"]
    free += ["train.compile=true", "train.max_device_batch=8", "train.num_processes=2"]
    free += ["train.checkpoint_every=7", "train.keep_last=3"]
    free += ["train.epochs=900", "guard.rollback=true", "train.timeout_minutes=5"]
    fixed, changed = changed_settings(old, load_config(path, free))
    assert fixed == []
    assert [line.partition(":")[0] for line in changed] == [
        key for key in keys(old) if key in {setting.partition("=")[0] for setting in free}
    ]
    assert "train.epochs: 800.0 → 900.0" in changed
    recorded = load_config(path, ["train.checkpoint_every=20", "log.panel_every=10"])
    assert changed_settings(recorded, old) == ([], [])  # follows from the length, as before
    new = load_config(path, ["train.seed=1", "model.encoder_kwargs.depth=2", "data.flip=false"])
    assert changed_settings(old, new) == (
        [
            "data.flip: True → False",
            "model.encoder_kwargs: {} → None",
            "train.seed: 0 → 1",
            "model.encoder_kwargs.depth: None → 2",
        ],
        [],
    )
