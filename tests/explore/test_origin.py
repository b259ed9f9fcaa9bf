import json
import re

import pytest

from mae.explore.origin import Origin, read_origin
from mae.explore.structure import Trust

FIGURES = {
    "k": 10,
    "compared": 200,
    "map": {"tsne": {"trustworthiness": 0.9}, "pca": {"trustworthiness": 0.8}},
}


def test_what_embed_records():
    content = {"model": "runs/a", "feature": "mean", "projection": "tsne", "figures": FIGURES}
    found = read_origin({"mae": json.dumps(content)})
    assert found == Origin("runs/a, mean", "t-SNE", Trust(10, 0.9, 0.8, 200))


@pytest.mark.parametrize("odd", ["1e400", "NaN", "-0.5", "1.5", "9" * 400, '"a"', "true"])
@pytest.mark.parametrize("place", ["0.9", "0.8", "10", "200"])
def test_figures_that_are_none_are_left_out(place, odd):
    content = {"model": "runs/a", "projection": "tsne", "figures": FIGURES}
    text = re.sub(rf"\b{re.escape(place)}\b", odd, json.dumps(content), count=1)
    assert odd in text
    assert read_origin({"mae": text}) == Origin("runs/a", "t-SNE")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model": 3, "projection": [], "figures": 1}'])
def test_anything_else_is_nothing(text):
    assert read_origin({"mae": text}) == Origin()
    assert read_origin({}) == Origin()
