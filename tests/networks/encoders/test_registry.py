import pytest
import timm
import torch
from torch import nn

from mae.base.errors import UserError
from mae.networks.encoders.registry import REASONS, adapter_named, adapter_of, is_encoder
from mae.networks.encoders.survey import survey
from mae.networks.vit import build_encoder
from tests.networks.encoders.option_sets import SETS, tiny_arguments


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vit_relpos_small_patch16_224", "VisionTransformerRelPos"),
        ("beit_base_patch16_224", "Beit"),
        ("samvit_base_patch16_224", "VisionTransformerSAM"),
    ],
)
def test_other_classes_are_refused_by_their_reason(name, kind):
    with torch.device("meta"), pytest.raises(UserError) as caught:
        build_encoder(name)
    text = str(caught.value)
    assert f"{name} is a {kind}, not timm's VisionTransformer" in text
    assert REASONS[kind] in text and "\n" not in text


REFUSED = [
    "vitamin_small_224",
    "vit_base_mci_224",
    "hieradet_small",
    "crossvit_9_240",
    "deit_tiny_distilled_patch16_224",
    "vit_tiny_r_s16_p8_224",
]


@pytest.mark.parametrize("name", REFUSED)
def test_the_reason_comes_before_complaints_about_sizes(name):
    (one,) = [one for one in survey(name) if one.name == name]
    with torch.device("meta"), pytest.raises(UserError) as caught:
        build_encoder(name, img_size=(224, 224), patch_size=16)
    assert one.reason and one.reason in str(caught.value)


@pytest.mark.fault
def test_every_refused_name_gives_its_reason():
    for one in survey():
        if one.reason and not one.reason.startswith("unless"):
            with torch.device("meta"), pytest.raises(UserError) as caught:
                build_encoder(one.name, img_size=(224, 224), patch_size=16)
            first, _, _ = one.reason.partition(", ")  # of several parts that it has
            assert first in str(caught.value) or "no adapter" in one.reason, one.name


def test_a_sharded_module_keeps_its_adapter():
    """FSDP2 gives a module a class that is derived from its own."""
    name = "vit_small_patch16_dinov3"
    encoder = build_encoder(name, img_size=(16, 16), patch_size=4, **tiny_arguments(name))
    before = adapter_of(encoder)
    encoder.__class__ = type("FSDPEva", (type(encoder),), {})
    assert adapter_of(encoder) is before and is_encoder(encoder)
    with pytest.raises(TypeError):
        adapter_of(nn.Linear(1, 1))


def test_names_have_the_adapter_of_their_class():
    for name in SETS:
        adapter = adapter_named(name)
        assert adapter is not None
        with torch.device("meta"):
            sizes = adapter.size_arguments(4, tiny_arguments(name), name)
            model = timm.create_model(name, img_size=(16, 24), **tiny_arguments(name), **sizes)
        assert type(model) is adapter.kind, name
    assert adapter_named("resnet18") is None
