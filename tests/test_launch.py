"""What launch/ and the README promise."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.yaml")), ids=lambda p: p.name)
def test_accelerate_accepts_the_config(path):
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    values = yaml.safe_load(path.read_text())
    assert config.num_processes == values["num_processes"]
    assert values["mixed_precision"] == "no"  # train.precision decides, in one place
    is_parallel = values["num_processes"] > 1
    assert (config.distributed_type == "MULTI_GPU") is is_parallel


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "launch").glob("*.s[hb]*")), ROOT / ".ci" / "run"],
    ids=lambda p: p.name,
)
def test_shell_scripts_parse(path):
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0


def test_ci_runs_the_readmes_test_command():
    readme = (ROOT / "README.md").read_text()
    assert "launch/test.sh" in readme and "launch/demo.sh" in readme
    assert "launch/test.sh" in (ROOT / ".ci" / "run").read_text()
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "test.yml").read_text()


def test_every_file_and_command_that_the_readme_names_exists():
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\b(?:launch|configs|mae|tests)/[\w./]*\w", readme))
    assert len(named) > 10
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_constraints_are_versions_without_addresses():
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    for line in filter(None, lines):
        assert re.match(r"[\w.-]+==[\w.+!-]+( ;.*)?$", line), line
