"""Each anti-pattern in the settings is named before training, and usual settings are silent."""

import json
from pathlib import Path

import pytest

from mae.cli import main
from mae.config.loading import load_config
from mae.config.validation import conflicting_settings
from mae.objectives.registry import declaration
from mae.pretrain import main as pretrain
from tests.objectives.autoencoders.recipes import NAMES, SOURCES
from tests.runs import write_config

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = CONFIGS / "autoencoders"
VAL = "data.val=val.tar"


def config_of(recipe: Path, *settings):
    name = recipe.stem
    source = [f"{SOURCES[name]}=run"] if name in SOURCES else []
    return load_config(recipe, ["data.train=a.tar", "output=out", VAL, *source, *settings])


def cautions(recipe: Path, *settings, images=50_000) -> list[str]:
    """First halves of the lines on a recipe with other settings."""
    config = config_of(recipe, *settings)
    found = list(declaration(config.objective).cautions(config, images))
    assert all(one.level in ("watch", "bad") and one.reason.endswith(".") for one in found)
    return [one.text for one in found]


@pytest.mark.parametrize("name", NAMES)
def test_the_recipes_are_silent(name):
    measured = ["model.noise_autocorrelation=0.02"] if name == "noise2void" else []
    assert cautions(RECIPES / f"{name}.yaml", *measured) == []


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_masked_autoencoding_are_silent(recipe):
    if "finetune" not in recipe.stem:
        assert cautions(recipe) == []


MAE = CONFIGS / "vit_base_patch16_224.yaml"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("mae", ["model.mask_ratio=0.3"], "model.mask_ratio=0.3 hides less than half"),
        ("mae", ["model.mask_ratio=0.5"], ""),
        ("mae", ["model.mask_ratio=0.95"], "model.mask_ratio=0.95 leaves 5% of the patches"),
        ("mae", ["data.img_size=32"], "1 of 4 patches of an image are visible"),
        ("mae", ["data.img_size=32", "model.patch_size=4"], ""),
        ("ae", ["data.val=[]"], "data.val is not set: nothing is measured"),
        ("ae", ["log.health_every=0"], "log.health_every=0: nothing is measured"),
        ("ae", ["data.img_size=32", "model.latent_dim=2000"], "Latents of 2,000 numbers for"),
        ("ae", ["data.img_size=32", "model.latent_dim=1000"], ""),
        ("kl", ["model.stages=1", "model.latent_dim=8"], "Latents of 131,072 numbers for images"),
        ("vae", ["model.beta=0.001"], "mae sample will refuse this run"),
        ("vae", ["model.beta=100"], "model.beta=100 is likely to collapse the posterior"),
        ("vae", ["model.beta=20"], ""),
        ("beta_vae", ["model.beta=50"], "model.beta=50 is likely to collapse"),
        ("ladder", ["model.beta=50"], "model.beta=50 is likely to collapse"),
        ("aae", ["model.adv=0"], "mae sample will refuse this run"),
        ("aae", ["model.adv=0.5"], "model.adv=0.5 makes the latents swing"),
        ("sparse", ["model.aux_weight=0"], "model.aux_weight=0: latents that are not used"),
        ("sparse", ["model.dead_after=20"], "model.dead_after=20 is short for"),
        ("sae", ["model.aux_weight=0"], "model.aux_weight=0: latents that are not used"),
        (
            "vqvae",
            ["model.kmeans_start=false", "model.revive_below=0"],
            "model.kmeans_start=false with model.revive_below=0: the codebook will collapse",
        ),
        ("vqvae", ["model.kmeans_start=false"], ""),
        ("vqvae", ["model.codebook_size=1000000"], "1,000,000 codes for 3,200,000 positions"),
        ("vqvae2", ["model.codebook_size=100000"], "100,000 codes for 800,000 positions"),
        ("fsq", ["model.levels=[64,64,128]"], "524,288 codes for"),
        ("dae", ["model.strength=0.001"], "model.strength=0.001 is 0.26 levels of 8 bits"),
        ("dae", ["model.strength=0.001", "data.bits=16"], ""),
        ("noise2void", ["model.noise_autocorrelation=0.4"], "The noise is correlated: 0.40"),
        ("noise2void", [], "No noise was found in the training images"),
        ("noise2void", ["model.method=noise2noise"], ""),
    ],
)
def test_settings_that_waste_a_run_are_named(name, settings, words):
    found = cautions(MAE if name == "mae" else RECIPES / f"{name}.yaml", *settings)
    assert len(found) == bool(words), found
    assert all(words in one for one in found)


def test_few_images_are_named():
    found = cautions(RECIPES / "ae.yaml", "model.latent_dim=16", images=12)
    assert found == ["16 latents for 12 training images"]
    assert "uses of a code in an epoch" in cautions(RECIPES / "vqvae.yaml", images=12)[0]


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("ae", ["model.latent_dim=4000"], "model.latent_dim"),
        ("vae", ["model.latent_dim=4000", "model.beta=0"], "model.latent_dim"),
        ("sparse", ["model.latent_dim=8000", "model.k=4000"], "model.k"),
        (
            "vqvae",
            ["model.backbone=linear", "model.codebook_size=1000000", "data.in_chans=1"],
            "model.stages",
        ),
    ],
)
def test_settings_without_a_bottleneck_are_refused(name, settings, key):
    recipe = RECIPES / f"{name}.yaml"
    with pytest.raises(Exception, match=f"{key}.*no bottleneck"):
        config = config_of(recipe, "data.own_statistics=true", "data.img_size=32", *settings)
        assert not list(conflicting_settings(config))


def test_a_run_prints_records_and_reports_them(shards, tmp_path, capsys):
    config = str(write_config(tmp_path, shards))
    short = ["model.mask_ratio=0.3", "train.epochs=1", "optim.warmup_epochs=0"]
    assert pretrain([config, *short]) == 0
    line = "model.mask_ratio=0.3 hides less than half of the patches"
    assert f"warning: {line}. What is hidden" in capsys.readouterr().out
    start = json.loads((tmp_path / "run" / "starts.jsonl").read_text())
    assert start["cautions"][0]["text"] == line
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert page.count(f"<b>{line}</b>") == 1 and ">cautions<" not in page
