"""`mae bench attention`: attention shapes of a step, and its kernels."""

import json

import pytest
import torch

from mae.cli import main
from mae.commands.bench.attention import attentions
from mae.commands.bench.cases import Case
from mae.commands.bench.training_step import build_objective
from mae.objectives.mae.model import build_mae


def test_shapes_are_those_of_a_training_step(monkeypatch):
    """Compared with the calls of a forward pass, with a batch of one image."""
    config = Case(encoder="vit_tiny_patch16_224", img_size=64, decoder_depth=3).config()
    model = build_mae(config)
    calls = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def recorded(q, k, v, **options):
        calls.append((q.shape[1], q.shape[2], k.shape[2], q.shape[3]))
        return attention(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    model(images, model.draw(images, torch.zeros(1, dtype=torch.int64)), torch.zeros(()))
    monkeypatch.undo()
    expected = [shape for one in attentions(model) for shape in [(one[1:5])] * one.times]
    assert calls == expected


def test_kernels_are_compared(tmp_path, capsys):
    out = tmp_path / "attention.json"
    sizes = ["--img-size", "64", "--batch-size", "2", "--decoder-depth", "1", "--quick"]
    model = ["--model", "vit_tiny_patch16_224", "--device", "cpu"]
    assert main(["bench", "attention", *model, *sizes, "--out", str(out)]) == 0
    encoder, last = json.loads(out.read_text())["groups"]
    assert (encoder["where"], last["where"]) == ("encoder", "decoder, last block")
    assert (last["queries"], last["keys"]) == (12, 17)
    assert set(encoder["kernels"]) == {"flash", "math"}  # the CPU's kernels
    assert encoder["kernels"]["math"]["times_as_fast_as_math"]["median"] == pytest.approx(1)
    assert "| flash |" in " ".join(capsys.readouterr().out.split())


def test_attention_of_a_plain_vision_transformer(classifier):
    objective = build_objective(Case(config_file=str(classifier), batch_size=4).config())
    (only,) = attentions(objective)
    assert only == ("encoder", 2, 17, 17, 16, 2)  # a class token and 16 patches, two blocks
