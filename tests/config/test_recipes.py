import shutil
from pathlib import Path

import pytest
import yaml

from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.config.recipes import Recipe, find_recipe, launchers, recipe_name, recipes
from mae.config.validation import changed_settings

ROOT = Path(__file__).parents[2]
PRETRAIN, FINETUNE = "mae pretrain", "mae finetune"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working directory away from the clone."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "command", "found"),
    [
        ("vit_small", PRETRAIN, "vit_small_patch16_224"),
        ("vit_small", FINETUNE, "vit_small_patch16_224_finetune"),
        ("ViT-Small", PRETRAIN, "vit_small_patch16_224"),
        ("vae", PRETRAIN, "autoencoders/vae"),  # no other one begins so
        ("vqvae", PRETRAIN, "autoencoders/vqvae"),  # vqvae2 does, but this one is called so
        ("beta-vae", PRETRAIN, "autoencoders/beta_vae"),
        ("demo", PRETRAIN, "demo_digits"),
    ],
)
def test_names_and_their_beginnings(name, command, found):
    assert find_recipe(name, command) == ROOT / "configs" / f"{found}.yaml"


@pytest.mark.parametrize(
    ("name", "command", "message"),
    [
        ("vq", PRETRAIN, "vq: several recipes begin so: vqvae, vqvae2"),
        (
            "vit",
            FINETUNE,
            "vit: several recipes begin so: vit_small_patch16_224_finetune, vit_tiny",
        ),
        ("kl", FINETUNE, "kl: mae pretrain trains it"),
        ("vit_smol", PRETRAIN, "no recipe: did you mean vit_small_patch16_224?"),
        ("vqvea", PRETRAIN, "no recipe: did you mean vqvae?"),
        ("auot", PRETRAIN, "no recipe: did you mean auto?"),
        ("auot", FINETUNE, "and no recipe: mae recipes lists them"),
        ("zebra", PRETRAIN, "and no recipe: mae recipes lists them"),
    ],
)
def test_names_that_fit_no_recipe_of_the_command(name, command, message):
    with pytest.raises(UserError) as error:
        find_recipe(name, command)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_file_is_that_file_and_a_folder_hides_no_recipe(tmp_path):
    (tmp_path / "vae.yaml").touch()
    assert find_recipe("vae.yaml", PRETRAIN) == Path("vae.yaml")
    assert find_recipe("./vae", PRETRAIN) == Path("vae")  # a path, though nothing is there
    assert find_recipe("runs/vae", PRETRAIN) == Path("runs/vae")
    (tmp_path / "vae").mkdir()
    assert find_recipe("vae", PRETRAIN).is_absolute()
    (tmp_path / "vae").rmdir()
    (tmp_path / "vae").touch()
    assert find_recipe("vae", PRETRAIN) == Path("vae")
    (tmp_path / "own").mkdir()
    assert find_recipe("own", PRETRAIN) == Path("own")  # which reading it reports


def test_settings_record_the_recipe_however_it_was_named(tmp_path):
    given = ["data.train=a.tar"]
    config = load_config(find_recipe("vae", PRETRAIN), given)
    assert (config.recipe, config.output) == ("vae", "runs/vae")
    copy = Path(shutil.copy(find_recipe("vae", PRETRAIN), tmp_path / "vae.yaml"))
    own = load_config(copy, given)
    assert (recipe_name(copy), own.recipe) == ("", "")
    assert changed_settings(config, own) == ([], [])  # a run goes on with either
    with pytest.raises(UserError, match="recipe: is recorded, not set"):
        load_config(copy, [*given, "recipe=mine"])


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)
def test_a_listed_recipe_is_described_by_its_file(recipe: Recipe):
    values = yaml.safe_load(recipe.text)
    assert recipe.objective == values.get("objective", "mae")
    assert recipe.summary and "(" not in recipe.summary
    assert recipe.hardware
    size = values.get("data", {}).get("img_size")
    assert size in (None, recipe.img_size)
    name = values.get("model", {}).get("encoder", "")
    assert size or recipe.img_size == (int(name.rpartition("_")[2]) if name else None)
    command = [line for line in recipe.text.splitlines() if line.startswith(("# mae ", "# acc"))]
    assert len(command) == 1 and recipe.name in recipe.text


def test_names_are_unique_and_launcher_files_are_found():
    names = [recipe.name for recipe in recipes()]
    assert len(names) == len(set(names)) == len(list((ROOT / "configs").rglob("*.yaml")))
    assert {"multi_gpu.yaml", "slurm.sbatch"} <= {file.name for file in launchers()}
