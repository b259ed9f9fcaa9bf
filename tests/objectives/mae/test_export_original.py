import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import load_checkpoint
from timm.models.vision_transformer import VisionTransformer

from mae.base.errors import RunFailed, UserError
from mae.objectives.mae.export import original_names
from mae.objectives.mae.model import build_mae
from tests.export.models import export_request, exported

BLOCK = """norm1.weight norm1.bias attn.qkv.weight attn.qkv.bias attn.proj.weight attn.proj.bias
norm2.weight norm2.bias mlp.fc1.weight mlp.fc1.bias mlp.fc2.weight mlp.fc2.bias""".split()

ENCODER = {
    "cls_token": (1, 1, 32),
    "pos_embed": (1, 5, 32),
    "patch_embed.proj.weight": (32, 3, 8, 8),
    "patch_embed.proj.bias": (32,),
    "norm.weight": (32,),
    "norm.bias": (32,),
}
DECODER = {
    "mask_token": (1, 1, 16),
    "decoder_embed.weight": (16, 32),
    "decoder_embed.bias": (16,),
    "decoder_pos_embed": (1, 5, 16),
    "decoder_norm.weight": (16,),
    "decoder_norm.bias": (16,),
    "decoder_pred.weight": (192, 16),
    "decoder_pred.bias": (192,),
}


def names(stack):
    return {f"{stack}.{number}.{name}" for number in range(2) for name in BLOCK}


def test_names_and_shapes_are_those_of_the_original_release(tmp_path, in_process):
    done = exported("mae", export_request(), tmp_path / "export")
    assert done.max_error < 1e-5
    tensors = load_file(tmp_path / "export" / "mae.safetensors")
    assert tensors.keys() == {*ENCODER, *DECODER, *names("blocks"), *names("decoder_blocks")}
    for name, shape in (ENCODER | DECODER).items():
        assert tensors[name].shape == shape, name
    assert tensors["decoder_blocks.1.mlp.fc1.weight"].shape == (64, 16)
    assert not tensors["decoder_pos_embed"][:, 0].any()
    pickled = torch.load(tmp_path / "export" / "mae.pth", weights_only=True)
    assert pickled.keys() == {"model", "args"}
    for name, tensor in pickled["model"].items():
        assert torch.equal(tensor, tensors[name])


def test_the_export_loads_into_our_model_unchanged(tmp_path, in_process):
    request = export_request()
    exported("mae", request, tmp_path / "export")
    own = {}
    for name, tensor in load_file(tmp_path / "export" / "mae.safetensors").items():
        if name == "decoder_pos_embed":
            own["decoder.pos_embed"] = tensor[:, 1:]
        elif name == "mask_token" or name.startswith("decoder_"):
            own[f"decoder.{name.removeprefix('decoder_')}"] = tensor
        else:
            own[f"encoder.{name}"] = tensor
    fresh = build_mae(request.config)
    fresh.load_state_dict(own, strict=True)
    for name, tensor in request.model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name


def test_without_the_decoder_timm_loads_the_file(tmp_path, in_process):
    request = export_request(decoder=False)
    exported("mae", request, tmp_path / "export")
    tensors = load_file(tmp_path / "export" / "mae.safetensors")
    assert tensors.keys() == {*ENCODER, *names("blocks")}
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 16, "patch_size": 8}
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes).eval()
    assert isinstance(theirs, VisionTransformer)
    load_checkpoint(theirs, str(tmp_path / "export" / "mae.pth"), strict=True)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(theirs.forward_features(images), request.encoder.forward_features(images))


def test_a_damaged_decoder_fails_the_check(tmp_path, in_process, monkeypatch):
    def damaged(vit, decoder):
        tensors = original_names(vit, decoder)
        name = "decoder_blocks.0.attn.proj.bias"
        return tensors | {name: tensors[name] + torch.arange(16) / 10}

    monkeypatch.setattr("mae.objectives.mae.export.original_names", damaged)
    with pytest.raises(
        RunFailed, match="not written: timm computes other prediction: relative difference"
    ):
        exported("mae", export_request(), tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_the_two_files_must_hold_the_same(tmp_path, in_process, monkeypatch):
    def damaged(tensors, path, metadata):
        save_file(tensors | {"norm.bias": tensors["norm.bias"] + 1}, path, metadata)

    monkeypatch.setattr("mae.export.original.save_tensors", damaged)
    with pytest.raises(RunFailed, match=r"not written: timm cannot load it: .*not the same"):
        exported("mae", export_request(), tmp_path / "export")


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"reg_tokens": 2}, "registers"),
        ({"class_token": False}, "no class token"),
        ({"reg_tokens": 1, "no_embed_class": True}, "a class token without a position"),
        ({"qk_norm": True}, "normalised queries and keys"),
        ({"init_values": 0.1}, "layer scale"),
        ({"pre_norm": True}, "a norm before the blocks"),
        ({"qkv_bias": False}, "queries, keys and values without bias"),
        ({"final_norm": False}, "no final norm"),
    ],
)
@pytest.mark.parametrize("format", ["mae", "hf"])
def test_unsupported_parts_are_refused_by_name(tmp_path, format, kwargs, named):
    with pytest.raises(UserError, match=f"^--format {format} has no place for .*{named}"):
        exported(format, export_request(kwargs=kwargs), tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_another_activation_is_refused(tmp_path):
    request = export_request(encoder="vit_base_patch16_clip_quickgelu_224")
    with pytest.raises(UserError, match="another activation than GELU"):
        exported("mae", request, tmp_path / "export")
