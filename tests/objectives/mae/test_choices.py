"""Rules of `mae pretrain auto`: tables of facts → settings."""

import math

import pytest

from mae.base.errors import UserError
from mae.base.machine import Machine
from mae.config.choices import nested
from mae.config.loading import load_config
from mae.data.facts import DataFacts
from mae.objectives.mae.choices import choices
from mae.objectives.mae.cost import Shape, activation_bytes, operations
from mae.objectives.mae.declaration import model_of
from mae.objectives.mae.model import build_mae
from mae.training.flops import flops_per_image
from mae.training.plan import make_plan
from mae.training.short_plans import Length, about_length

TERA = 1e12
CPU = Machine(1, "", 0.0, False, 2, 8.0, 0.05 * TERA, True)
SMALL_GPU = Machine(1, "Tesla T4", 15.0, False, 8, 32.0, 2.8 * TERA, False)
GPUS = Machine(8, "NVIDIA H100", 80.0, True, 64, 512.0, 2770 * TERA, True, 8)
SIX = GPUS._replace(processes=6, local_processes=6)
MACHINES = {"cpu": CPU, "t4": SMALL_GPU, "8xh100": GPUS, "6xh100": SIX}


def images(count, height=300, width=400, channels=3, bits=8, aspects=(0.7, 1.4)):
    return DataFacts(count, channels, bits, height, width, min(height, width), aspects)


def chosen(facts, machine, **given):
    return {one.key: one.value for one in choices(facts, machine, given)}


def settings(facts, machine, *typed, **given):
    """Valid settings of a run with these choices."""
    base = nested(choices(facts, machine, given))
    return load_config(None, ["data.train=a.tar", "output=o", *typed], base)


FACTS = {
    "20 photos": images(20),
    "100 photos": images(100),
    "700 grey": images(700, 250, 240, channels=1),
    "3,068 photos": images(3068),
    "50,000 of 32 px": images(50_000, 32, 32, aspects=(1, 1)),
    "28 px grey": images(60_000, 28, 28, channels=1, aspects=(1, 1)),
    "16 bits": images(10_000, 2000, 2500, channels=1, bits=16),
    "7 bands": images(10_000, 64, 64, channels=7, bits=16, aspects=(1, 1)),
    "strips": images(5000, 256, 1024, channels=1, aspects=(4, 4)),
    "upright strips": images(5000, 900, 300, aspects=(0.333, 0.333)),
    "tiny": images(500, 8, 8, aspects=(1, 1)),
    "odd": images(500, 37, 53, aspects=(1.43, 1.43)),
    "latents": images(5000, 32, 32, channels=4, bits=32, aspects=(1, 1)),
    "1e6": images(1_281_167),
    "1e9": images(10**9),
}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("facts", FACTS.values(), ids=FACTS)
def test_all_choices_make_a_valid_run(facts, machine):
    made = choices(facts, machine, {})
    assert len({one.key for one in made}) == len(made) and all(one.reason for one in made)
    config = settings(facts, machine)
    plan = make_plan(config, facts.images, machine.processes, 0)  # batch ≤ images, and divides
    assert plan.steps >= 1 and config.data.img_size
    side = model_of(config).patch_size
    assert side and not any(one % side for one in config.data.img_size)
    assert all(one <= 224 * 2 for one in config.data.img_size)
    if facts.images >= 100 and config.train.epochs >= 1:  # else the time is named as short
        assert not list(about_length(config, Length(facts.images, plan.steps, plan.lr)))


@pytest.mark.parametrize(
    ("facts", "machine", "expected"),
    [
        ("50,000 of 32 px", "cpu", {"data.img_size": 32, "model.patch_size": 4}),
        ("50,000 of 32 px", "8xh100", {"data.img_size": 32, "model.patch_size": 2}),
        ("3,068 photos", "8xh100", {"data.img_size": 224, "model.patch_size": 16}),
        ("3,068 photos", "8xh100", {"model.encoder": "vit_small_patch16_224"}),
        ("1e6", "8xh100", {"model.encoder": "vit_base_patch16_224", "train.batch_size": 4096}),
        ("1e6", "6xh100", {"train.batch_size": 4092}),
        ("1e6", "8xh100", {"train.compile": True, "train.precision": "bf16"}),
        ("1e6", "t4", {"train.compile": False, "train.precision": "fp32"}),
        ("700 grey", "cpu", {"data.in_chans": 1, "data.bits": 8, "data.own_statistics": True}),
        ("16 bits", "t4", {"data.in_chans": 1, "data.bits": 16}),
        ("strips", "t4", {"data.img_size": [112, 448], "data.ratio": [3.0, 5.3333]}),
        ("upright strips", "t4", {"data.img_size": [384, 128], "data.ratio": [0.25, 0.4444]}),
        ("20 photos", "cpu", {"train.batch_size": 8}),
        ("tiny", "cpu", {"data.img_size": 16, "model.patch_size": 4}),
        ("50,000 of 32 px", "cpu", {"model.norm_pix_loss": True}),
        ("50,000 of 32 px", "8xh100", {"model.norm_pix_loss": False}),
        ("28 px grey", "cpu", {"model.norm_pix_loss": False, "model.patch_size": 4}),
        ("50,000 of 32 px", "cpu", {"data.workers": 0}),
        ("3,068 photos", "cpu", {"data.workers": 1}),
    ],
)
def test_table_of_choices(facts, machine, expected):
    found = chosen(FACTS[facts], MACHINES[machine])
    assert expected == {key: found.get(key) for key in expected}


def test_fewer_images_get_more_epochs_and_the_time_limits_both():
    counts = (700, 5000, 50_000, 10**6)
    epochs = [chosen(images(count), GPUS)["train.epochs"] for count in counts]
    assert epochs == sorted(epochs, reverse=True) and epochs[0] == 4000
    hour, day = (
        chosen(images(10**6), GPUS, **{"auto.hours": hours})["train.epochs"] for hours in (0.1, 1)
    )
    assert day == pytest.approx(10 * hour, rel=0.1)


def test_a_longer_time_allows_a_larger_encoder():
    widths = []
    for hours in (0.01, 0.1, 1, 10):
        found = chosen(images(3000), CPU, **{"auto.hours": hours})
        widths.append(found.get("model.encoder_kwargs", {"embed_dim": 192, "depth": 12}))
    sizes = [one["embed_dim"] ** 2 * one["depth"] for one in widths]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


@pytest.mark.parametrize(
    ("given", "followers"),
    [
        ({"train.batch_size": 512}, {"optim.lr", "optim.warmup_epochs"}),
        ({"train.epochs": 10.0}, {"optim.warmup_epochs", "log.health_every", "log.panel_every"}),
        ({"data.img_size": [96, 96]}, {"model.patch_size"}),
        ({"model.patch_size": 16}, {"train.epochs"}),
        ({"auto.hours": 0.1}, {"train.epochs"}),
        ({"model.encoder": "vit_base_patch16_224"}, {"model.decoder_depth", "train.epochs"}),
        ({"data.in_chans": 3}, set()),
    ],
)
def test_what_depends_on_a_given_setting_follows_it(given, followers):
    facts = FACTS["700 grey"]
    free, bound = chosen(facts, CPU), chosen(facts, CPU, **given)
    changed = {key for key in bound if bound[key] != free.get(key)} - given.keys()
    assert followers <= changed
    own = {one.key: one for one in choices(facts, CPU, given)}
    for key, value in given.items():
        assert key.startswith("auto.") or own[key][1:] == (value, "given")


def test_a_given_learning_rate_per_256_images_is_left_alone():
    assert "optim.lr" not in chosen(FACTS["700 grey"], CPU, **{"optim.blr": 1e-4})
    assert "data.own_statistics" not in chosen(
        FACTS["700 grey"], CPU, **{"data.mean": [0.5], "data.std": [0.2]}
    )


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        ("embed_dim: 96, depth: 4, num_heads: 3", Shape(96, 4, 64, 48, 64, 1)),
        ("embed_dim: 192, depth: 6, num_heads: 3", Shape(192, 6, 64, 48, 128, 2)),
    ],
)
def test_estimated_operations_are_near_those_counted(words, shape):
    typed = [
        f"model.encoder_kwargs={{{words}}}",
        *("model.encoder=vit_tiny_patch16_224", "data.img_size=32", "model.patch_size=4"),
        f"model.decoder_embed_dim={shape.decoder_width}",
        f"model.decoder_depth={shape.decoder_depth}",
        "model.decoder_num_heads=4",
    ]
    counted = flops_per_image(build_mae(load_config(None, typed)), 3)
    assert operations(shape) == pytest.approx(counted, rel=0.1)


def test_operations_and_memory_of_published_sizes():
    """38.1 and 57.5 GFLOP, 67 and 82 MB in fp32: BENCHMARKS.md."""
    small, base = (Shape(width, 12, 196, 768, 512, 8) for width in (384, 768))
    assert operations(small) == pytest.approx(38.1e9, rel=0.02)
    assert operations(base) == pytest.approx(57.5e9, rel=0.02)
    assert activation_bytes(small, 4) == pytest.approx(67e6, rel=0.1)
    assert activation_bytes(base, 4) == pytest.approx(82e6, rel=0.1)


def test_memory_bounds_the_micro_batch():
    large, small = (
        chosen(images(10**6), one, **{"model.encoder": "vit_huge_patch14_224"})
        for one in (GPUS, GPUS._replace(gpu_memory=24.0))
    )
    most = large["train.max_device_batch"], small["train.max_device_batch"]
    assert most[0] > most[1] > 1 and all(math.log2(one).is_integer() for one in most)


def test_patches_of_large_arrays_stay_small():
    arrays = images(10_000, 1024, 1024, channels=5, bits=32, aspects=(1, 1))
    for machine, side in ((CPU, 64), (GPUS, 224)):
        found = chosen(arrays, machine)
        assert found["data.img_size"] == side and found["model.patch_size"] <= 16
    assert chosen(FACTS["1e6"], GPUS, **{"data.img_size": [512, 512]})["model.patch_size"] == 16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data.img_size": [97, 97]}, "97 x 97 px divide into 9,409 patches .* try 96 x 96"),
        ({"data.img_size": [16, 16], "model.patch_size": 16}, "16 leaves 1 of the 4 patches"),
    ],
)
def test_image_sizes_without_a_sensible_patch_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        choices(FACTS["1e6"], CPU, given)
