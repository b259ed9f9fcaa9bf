"""Fixtures of the settings' tests."""

import pytest


@pytest.fixture
def write(tmp_path):
    """`write(text)` → the path of a config of that text."""

    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write
