"""Report page of every autoencoder's run."""

import pytest

from mae.cli import main
from mae.objectives.registry import declaration
from tests.objectives.autoencoders.recipes import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_its_charts_and_panels(name, finished, tmp_path, capsys):
    assert main(["report", str(finished(name)), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    for chart in declaration(name).charts:
        assert chart.title.replace("'", "&#x27;") in page, chart.title
    for metric in declaration(name).metrics:
        assert metric.label in page, metric.label
    assert declaration(name).panels_title in page and "data:image/" in page
    assert "Traceback" not in page and "nan" not in page.lower().split("</style>")[1][:4000]
