"""The notebook docs/quickstart.ipynb: it runs, and its kept outputs are those of its code."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runs import environment

NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"
RUN = (
    "import sys; from nbclient.cli import main; sys.argv[1:] = ['quickstart', '--inplace']; main()"
)


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    return [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]


def text_of(cell: dict[str, Any]) -> str:
    return "".join("".join(output.get("text", [])) for output in cell["outputs"])


def pictures(cell: dict[str, Any]) -> list[str]:
    return [
        one["data"]["image/png"] for one in cell["outputs"] if "image/png" in one.get("data", {})
    ]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Cells of the notebook after a run with few epochs, in an empty folder."""
    folder = tmp_path_factory.mktemp("notebook")
    copy = folder / NOTEBOOK.name
    shutil.copyfile(NOTEBOOK, copy)
    whole = copy.read_text()
    assert "EPOCHS = 120" in whole
    copy.write_text(whole.replace("EPOCHS = 120", "EPOCHS = 3"))
    own = {"JUPYTER_RUNTIME_DIR": str(folder), "IPYTHONDIR": str(folder), "MPLBACKEND": "agg"}
    words = [sys.executable, "-c", RUN]
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, env=environment() | own
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return code_cells(copy)


def test_it_runs_from_images_to_an_export(executed):
    printed = "\n".join(map(text_of, executed))
    assert re.search(r"Run\(quickstart/run: finished, step 61 of 61, loss", printed)
    assert "torch.Size([500, 96])" in printed
    assert sum(map(len, map(pictures, executed))) == 1


def test_kept_outputs_are_those_of_the_code(executed):
    kept = code_cells(NOTEBOOK)
    for cell, again in zip(kept, executed, strict=True):
        assert bool(text_of(cell)) == bool(text_of(again))
        assert len(pictures(cell)) == len(pictures(again))
        assert not [output for output in cell["outputs"] if output["output_type"] == "error"]
    assert [cell["execution_count"] for cell in kept] == [*range(1, len(kept) + 1)]
    assert NOTEBOOK.stat().st_size < 400_000


def test_kept_numbers_show_what_was_learned():
    printed = "".join(map(text_of, code_cells(NOTEBOOK)))
    found = re.findall(r"(\w+) +10 labels a class +([\d.]+)%.* all labels +([\d.]+)%", printed)
    shown = {name: (float(few), float(every)) for name, few, every in found}
    assert list(shown) == ["pretrained", "untrained", "pixels"]
    assert all(shown["pretrained"][i] > shown["pixels"][i] > shown["untrained"][i] for i in (0, 1))
    text = NOTEBOOK.read_text()
    assert str(Path.home()) not in text and str(NOTEBOOK.parents[1]) not in text
