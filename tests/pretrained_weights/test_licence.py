"""Licences of weights."""

import json

import pytest

from mae.pretrained_weights.licence import Licence, folder_licence, named_licence


@pytest.mark.parametrize(
    ("source", "declared", "expected"),
    [
        ("timm:vit_small_patch16_224.augreg", "apache-2.0", Licence("apache-2.0", False)),
        ("weights.pth", None, Licence(None, False)),
        ("hf:someone/vit", "cc-by-nc-sa-4.0", Licence("cc-by-nc-sa-4.0", True)),
        ("hf:someone/vit", "CC BY-NC 4.0", Licence("CC BY-NC 4.0", True)),
        ("hf:someone/vit", "fair-noncommercial-research-license", None),
        ("hf:someone/vit", "apache-2.0, cncf", Licence("apache-2.0, cncf", False)),
        ("timm:vit_base_patch16_224.mae", None, Licence("cc-by-nc-4.0", True)),
        ("hf:timm/vit_base_patch16_224.mae", "cc-by-nc-4.0", Licence("cc-by-nc-4.0", True)),
        ("hf:facebook/vit-mae-base", "apache-2.0", Licence("cc-by-nc-4.0", True)),
        ("hf:facebook/dino-vits16", "apache-2.0", Licence("apache-2.0", False)),
        ("old/mae_pretrain_vit_base.pth", None, Licence("cc-by-nc-4.0", True)),
        ("old/mae_visualize_vit_large_ganloss.pth", None, Licence("cc-by-nc-4.0", True)),
        ("copies/facebook/vit-mae-base", "apache-2.0", Licence("cc-by-nc-4.0", True)),
        ("people/facebook/mae/run", None, Licence(None, False)),
        ("old/mae_xray.pth", None, Licence(None, False)),
        ("old/dinov3_vits16_pretrain_lvd1689m-08c60483.pth", None, Licence("dinov3-license")),
        ("hf:facebook/hiera-tiny-224-hf", None, Licence("cc-by-nc-4.0", True)),
        ("hf:facebook/dinov3-vits16-pretrain-lvd1689m", None, Licence("dinov3-license")),
    ],
)
def test_what_forbids_commerce_is_known(source, declared, expected):
    assert named_licence(source, declared) == (expected or Licence(declared, True))


def test_a_run_s_record_comes_before_config_and_card(tmp_path):
    assert folder_licence(tmp_path, "x") == Licence()
    (tmp_path / "README.md").write_text("---\ntags: [a]\nlicense: cc-by-nc-4.0\n---\n# X\n---\n")
    assert folder_licence(tmp_path, "x") == Licence("cc-by-nc-4.0", True)
    config = {"pretrained_cfg": {"license": "mit"}}
    assert folder_licence(tmp_path, "x", config) == Licence("mit", False)
    assert folder_licence(tmp_path / "encoder", "x") == Licence("cc-by-nc-4.0", True)
    assert folder_licence(tmp_path / "other", "x") == Licence()
    record = {"license": "cc-by-nc-sa-4.0", "non_commercial": True}
    (tmp_path / "init.json").write_text(json.dumps(record))
    assert folder_licence(tmp_path, "x", config) == Licence("cc-by-nc-sa-4.0", True)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("license: other\nlicense_name: a-noncommercial-one", Licence("a-noncommercial-one", True)),
        ("license: other\nlicense_name: gemma", Licence("gemma", False)),
        ("license: other", Licence("other", False)),
        ("license: mit\nnon_commercial: true", Licence("mit", True)),
        ("license: [mit, cc-by-nc-4.0]", Licence("mit, cc-by-nc-4.0", True)),
        ("non_commercial: true", Licence(None, True)),
        ("license: mit\nnon_commercial: 'no'", Licence("mit", False)),
    ],
)
def test_what_a_card_declares(tmp_path, metadata, expected):
    (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\n")
    assert folder_licence(tmp_path, "x") == expected


@pytest.mark.parametrize("card", ["", "# X", "---\n: [\n---\n", "---\n- 1\n---\n", "x\n---\n---\n"])
def test_cards_without_metadata_say_nothing(tmp_path, card):
    (tmp_path / "README.md").write_text(card)
    assert folder_licence(tmp_path, "x") == Licence()
