"""Exports of a trained run: loaded again in a fresh process, and the formulas of the cards."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mae.cli import main
from mae.objectives.sae.export import MOST_FLIPPED, compare
from mae.objectives.sae.model import TokenSparseAutoencoder
from mae.training.checkpoint.trained import load_plain, load_pretrained
from tests.objectives.autoencoders.small import pictures


@pytest.fixture
def export(finished, tmp_path, capsys):
    def write(form: str, *options: str) -> int:
        words = ["export", str(finished("sae")), str(tmp_path / "out"), "--format", form]
        return main([*words, "--images", "noise", *options])

    return write


@pytest.mark.parametrize("form", ["saelens", "torch", "onnx"])
def test_it_is_loaded_again(form, export, in_process, capsys):
    assert export(form) == 0, capsys.readouterr().err


def test_saelens_computes_the_same_in_a_fresh_process(export, finished, tmp_path, capsys):
    assert export("saelens") == 0, capsys.readouterr().err
    w = load_file(tmp_path / "out" / "sae_weights.safetensors")
    cfg = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert (cfg["architecture"], cfg["d_in"], cfg["d_sae"]) == ("jumprelu", 16, 128)
    assert {name: list(one.shape) for name, one in w.items()} == {
        "W_enc": [16, 128],
        "b_enc": [128],
        "W_dec": [128, 16],
        "b_dec": [16],
        "threshold": [128],
    }
    torch.testing.assert_close(w["W_dec"].norm(dim=1), torch.ones(128))
    _, model, _ = load_pretrained(finished("sae"))
    assert isinstance(model, TokenSparseAutoencoder)
    tokens = model.tokens(pictures(4, 3))
    scope: dict[str, Any] = {}
    code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    code = code.replace('"out/', f'"{tmp_path}/out/').replace("torch.zeros(1, 16, 16)", "tokens")
    exec(code, scope | {"tokens": tokens}, scope)  # the card's lines
    with torch.no_grad():
        latents = model.dictionary.latents(tokens)
        torch.testing.assert_close(scope["latents"], latents)
        torch.testing.assert_close(scope["again"], model.dictionary.decode(latents))


def test_a_plain_export_holds_its_encoder_once_and_opens_alone(
    export, finished, token_encoder, tmp_path, capsys
):
    assert export("plain") == 0, capsys.readouterr().err
    out = tmp_path / "out"
    assert not any("frozen" in name for name in load_file(out / "model.safetensors"))
    assert (out / "frozen" / "model.safetensors").stat().st_size > 1000
    assert str(token_encoder.parent) not in (out / "config.json").read_text()
    _, ours, _ = load_pretrained(finished("sae"))
    _, plain, _ = load_plain(out)
    with torch.no_grad():
        pooled, again = (one.encode(pictures(4, 3)).pooled for one in (ours, plain))
    assert all(torch.equal(again[name], one) for name, one in pooled.items())


@pytest.mark.parametrize("option", [["--pool", "avg"], ["--no-decoder"], ["--img-size", "32"]])
def test_options_that_do_not_apply_are_refused_in_one_line(option, export, tmp_path, capsys):
    assert export("saelens", *option) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert option[0] in line and not (tmp_path / "out").exists()


def test_only_rounding_at_the_threshold_is_forgiven():
    tokens = torch.rand(4, 10, 300)
    ours = tokens.clone()
    ours[0, 0, 0] = 0
    inputs = {"tokens": tokens, "latents": ours}
    assert 1 / ours.numel() <= MOST_FLIPPED
    found = compare(lambda given: given, lambda given: given, inputs)
    assert torch.equal(found["latents"], ours)
    ours[0, :2] = 0
    found = compare(lambda given: given, lambda given: given, inputs)
    assert torch.equal(found["latents"], tokens)
