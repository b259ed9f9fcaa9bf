"""Files for contributors and packagers: citation, issue forms, hooks, container."""

import re
from pathlib import Path

import pytest
import yaml

import mae

ROOT = Path(__file__).parents[1]


def test_citation_has_what_the_format_requires_and_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == mae.__version__
    assert citation["license"] == "Apache-2.0"


@pytest.mark.parametrize("name", ["bug", "question", "feature"])
def test_issue_forms_ask_something(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert fields and all(field["id"] and field["attributes"]["label"] for field in fields)
    assert fields[0]["validations"]["required"] is True


def test_hooks_are_the_checks_of_the_tests():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    script = (ROOT / "launch" / "test.sh").read_text()
    for hook in hooks:
        command = " ".join(hook["entry"].split()[:2])
        assert command in script, command


def test_container_copies_files_that_exist_and_is_not_root():
    text = (ROOT / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert set(copied) == kept
    assert all((ROOT / name).exists() for name in copied)
    assert re.findall(r"^USER (\w+)$", text, re.M)[-1] != "root"
    assert "--constraint constraints.txt" in text
