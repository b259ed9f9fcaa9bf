"""The wheel: all of the package and nothing else, from an sdist; installed, it works by itself."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

ROOT = Path(__file__).parents[1]


def build(target: str, source: Path, out: Path) -> Path:
    """File of the kind `target`, built from the folder `source`."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.tar.gz" if target == "sdist" else "*.whl")
    return path


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory):
    """The wheel, built from the sdist alone, as an index has it."""
    out = tmp_path_factory.mktemp("wheel")
    with tarfile.open(build("sdist", ROOT, out)) as archive:
        archive.extractall(out, filter="data")
    (source,) = (path for path in out.iterdir() if path.is_dir())
    for name in ("tests/test_wheel.py", "docs/ARCHITECTURE.md", "LICENSE", "CHANGELOG.md"):
        assert (source / name).is_file(), name
    return build("wheel", source, out)


@pytest.fixture(scope="module")
def wheel(wheel_file):
    """Contents of the wheel by name."""
    with zipfile.ZipFile(wheel_file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [
        ("configs/*.yaml", "recipes"),
        ("configs/autoencoders/*.yaml", "recipes/autoencoders"),
        ("launch/*.yaml", "launchers"),
        ("launch/*.sbatch", "launchers"),
        ("mae/explore/assets/*", "explore/assets"),
        ("mae/py.typed", "."),
    ],
)
def test_recipes_and_launcher_files_are_inside(wheel, pattern, folder):
    files = list(ROOT.glob(pattern))
    assert files
    for file in files:
        assert wheel[os.path.normpath(f"mae/{folder}/{file.name}")] == file.read_bytes()


def test_every_module_is_inside_and_nothing_else(wheel):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "mae").rglob("*.py")}
    assert {name for name in wheel if name.endswith(".py")} == modules
    assert {name.partition("/")[0] for name in wheel} == {"mae", "maekit-0.1.0.dist-info"}


def test_metadata(wheel):
    metadata = message_from_bytes(wheel["maekit-0.1.0.dist-info/METADATA"])
    addresses = dict(one.split(", ") for one in metadata.get_all("Project-URL", []))
    assert addresses.keys() == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Keywords"]
    needed = {one.name: one for one in map(Requirement, metadata.get_all("Requires-Dist", []))}
    for name in ("torch", "torchvision"):  # builds for CPUs have a local version
        least = next(iter(needed[name].specifier)).version
        assert f"{least}+cpu" in needed[name].specifier


@pytest.fixture(scope="module")
def installed(wheel_file, tmp_path_factory):
    """Folder of the programs of an environment with the wheel, and with its dependencies."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder)
    python = folder / "bin" / "python"
    uv = shutil.which("uv")
    if uv is not None:
        installer = [uv, "pip", "install", "--offline", "--python", str(python)]
    else:
        installer = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index"]
    words = [*installer, "--no-deps", str(wheel_file)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Searched after its own packages; .pth files in there, of an editable install, do not act.
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin"


def test_a_recipe_runs_by_its_name_on_a_folder_of_images(installed, tmp_path, make_image):
    """Away from the clone, as for a person who has the wheel alone."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        Image.fromarray(make_image(number, 20)).save(photos / f"{number}.jpg")
    own = {"HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | own

    def mae(*words: str) -> str:
        done = subprocess.run(
            [installed / "mae", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    launcher = mae("recipes", "launchers", "multi_gpu")
    assert Path(launcher.strip()).is_relative_to(installed.parent)
    settings = ("train.epochs=2", "train.batch_size=4", "data.workers=0", "log.wandb=false")
    printed = mae("pretrain", "ae", "data.train=photos", "data.val_share=0.3", *settings)
    assert re.search(r"done: [45] steps; runs/ae holds the run", printed)  # a share by names
    start = json.loads((tmp_path / "runs/ae/starts.jsonl").read_text())
    assert (start["recipe"], start["git"]) == ("ae", None)
    assert list(start["folders"]) == [str(photos)]
    assert (tmp_path / ".cache/mae/packed").is_dir()
