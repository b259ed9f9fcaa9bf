"""The wheel: the package, its recipes, launcher files and pages, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Contents of the wheel by name."""
    out = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [
        ("configs/*.yaml", "recipes"),
        ("launch/*.yaml", "launchers"),
        ("launch/*.sbatch", "launchers"),
        ("mae/explore/assets/*", "explore/assets"),
    ],
)
def test_recipes_and_launcher_files_are_inside(wheel, pattern, folder):
    files = list(ROOT.glob(pattern))
    assert files
    for file in files:
        assert wheel[f"mae/{folder}/{file.name}"] == file.read_bytes()


def test_every_module_is_inside_and_nothing_else(wheel):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "mae").rglob("*.py")}
    assert {name for name in wheel if name.endswith(".py")} == modules
    assert {name.partition("/")[0] for name in wheel} == {"mae", "maekit-0.1.0.dist-info"}
