import pytest
import timm
import torch
from torch import nn

from mae.base.errors import UserError
from mae.networks.encoders.registry import REASONS, adapter_named, adapter_of, is_encoder
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
