"""Calls as they are recorded."""

from pathlib import Path

import numpy as np

from mae.api.call_text import call_text


def test_a_call_is_shown_as_it_is_typed():
    data = ["a.tar", Path("b.tar")]
    settings = {"data": data, "val": None, "train.epochs": np.int64(5), "optim": {"lr": 1e-3}}
    shown = "data=['a.tar', 'b.tar'], optim={'lr': 0.001}, **{'train.epochs': 5}"
    assert call_text("train", Path("x.yaml"), settings) == f"mae.train('x.yaml', {shown})"


def test_no_secret_and_no_content_is_recorded():
    address = "https://me:hush-hush@host/a.tar?signature=hush-hush"
    text = call_text("train", {"model": {}}, {"data": address, "data.val": [address]})
    assert text.startswith("mae.train({…}, data='https://host/a.tar'") and "hush" not in text
    assert "\n" not in call_text("train", "a\nb", {})
