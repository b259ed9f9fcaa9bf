from pathlib import Path

import pytest

from mae.cli import main
from mae.config.recipes import recipes

ROOT = Path(__file__).parents[2]


def test_all_recipes_are_listed_under_the_command_that_trains_them(capsys):
    assert main(["recipes"]) == 0
    pretraining, finetuning, _ = capsys.readouterr().out.split("\n\n")
    assert finetuning.splitlines()[0].startswith("mae finetune RUN NAME")
    for recipe in recipes():
        text = finetuning if recipe.command == "mae finetune" else pretraining
        (line,) = [line for line in text.splitlines() if line.split()[0] == recipe.name]
        assert recipe.summary in line and recipe.hardware in line


def test_auto_comes_first_and_is_explained(capsys):
    assert main(["recipes"]) == 0
    assert capsys.readouterr().out.startswith("mae pretrain auto data.train=DATA ")
    assert main(["recipes", "show", "auto"]) == 0
    text = capsys.readouterr().out
    assert "mae pretrain auto data.train=photos --dry-run" in text and "auto.hours=4" in text
    assert max(map(len, text.splitlines())) <= 100 and len(text.splitlines()) < 15


def test_a_recipe_is_printed_to_be_copied(capsys):
    assert main(["recipes", "show", "vit_small"]) == 0
    assert capsys.readouterr().out == (ROOT / "configs/vit_small_patch16_224.yaml").read_text()
    assert main(["recipes", "show", "slurm.sbatch"]) == 0
    assert capsys.readouterr().out == (ROOT / "launch/slurm.sbatch").read_text()


def test_launcher_files_are_listed_and_found(capsys):
    assert main(["recipes", "launchers"]) == 0
    assert f"{ROOT / 'launch/multi_gpu.yaml'}\n    All 8 GPUs" in capsys.readouterr().out
    assert main(["recipes", "launchers", "multi_gpu"]) == 0
    assert capsys.readouterr().out == f"{ROOT / 'launch/multi_gpu.yaml'}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "vq"], "vq: several recipes begin so: vqvae, vqvae2"),
        (["show", "vea"], "vea: no such recipe or file: did you mean vae?"),
        (["show", "auot"], "auot: no such recipe or file: did you mean auto?"),
        (["launchers", "multi_gpus"], "did you mean multi_gpu.yaml?"),
        (["launchers", "vae"], "vae: no such recipe or file: mae recipes lists them"),
    ],
)
def test_other_names(words, message, capsys):
    assert main(["recipes", *words]) == 2
    assert message in capsys.readouterr().err
