import argparse

import pytest

from mae.commands.encoders import add_encoders
from mae.networks.encoders import survey


@pytest.fixture
def listed(monkeypatch, capsys):
    """`listed(*words)`: what the command prints of a few modules of timm."""
    modules = ["deit", "hieradet_sam2", "gone"]
    monkeypatch.setattr(survey, "MODULES", modules)

    def run(*words: str) -> list[str]:
        parser = argparse.ArgumentParser()
        add_encoders(parser.add_subparsers())
        args = parser.parse_args(["encoders", *words])
        args.work(args)
        return capsys.readouterr().out.splitlines()

    return run


def test_names_by_class_and_refusals_by_reason(listed):
    lines = listed()
    assert lines[0].startswith("12 of 21 names can be model.encoder")
    assert "VisionTransformer: 12 plain Vision Transformers" in lines
    assert "Eva: 0 Vision Transformers with rotary positions" in lines
    assert any("deit_tiny_patch16_224" in line for line in lines)
    assert "    5  HieraDet: its attention works in windows of the whole grid" in lines


def test_names_that_contain_a_word(listed):
    lines = listed("deit_tiny")
    assert lines == [
        "deit_tiny_distilled_patch16_224  VisionTransformerDistilled: refused: its second class "
        "token, for distillation, has a head of its own",
        "deit_tiny_patch16_224            VisionTransformer",
    ]
    assert listed("no such") == ["none"]


def test_counts(listed):
    assert listed("--counts")[2:] == [
        "| deit | 16 | 12 | 0 | 0 | 4 |",
        "| hieradet_sam2 | 5 | 0 | 0 | 0 | 5 |",
        "| all | 21 | 12 | 0 | 0 | 9 |",
    ]


@pytest.mark.fault
def test_every_name_of_the_rotary_class_and_all_others_as_documented():
    found = list(survey.survey())
    assert len([one for one in found if one.kind == "Eva" and not one.reason]) >= 65
    assert len([one for one in found if not one.reason]) >= 246
