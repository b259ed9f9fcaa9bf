"""Files in the names of the original release of MAE, for tools that are built on its code.

The names (`cls_token`, `blocks.N.*` …) are those of a plain Vision Transformer in timm, in one flat
dictionary.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.layers import Mlp
from timm.models import vision_transformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.base.files import save_tensors
from mae.networks.encoders.registry import TimmEncoder, adapter_of
from mae.pretrained_weights.weight_files import ARGUMENTS, settings_text

WEIGHTS = "mae.safetensors"
PICKLED = "mae.pth"

FILES = f"""\
`{WEIGHTS}` and `{PICKLED}` (a dictionary `model`, loads with `weights_only=True`) hold the same
tensors, in the names of the original release: {{what}}."""

PLAIN = vision_transformer.Block
"""blocks of a plain Vision Transformer"""


def write_tensors(
    folder: Path, tensors: dict[str, Tensor], settings: dict[str, int | float | bool]
) -> None:
    """Write mae.safetensors and mae.pth, both with the `settings` that no tensor shows."""
    metadata = {"format": "pt", ARGUMENTS: settings_text(settings)}
    save_tensors(tensors, folder / WEIGHTS, metadata)
    torch.save({"model": tensors, ARGUMENTS: settings}, folder / PICKLED)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Tensors of mae.pth; ValueError where mae.safetensors differs."""
    weights = torch.load(folder / PICKLED, weights_only=True)["model"]
    same = load_file(folder / WEIGHTS)
    if weights.keys() != same.keys() or any(not torch.equal(weights[k], same[k]) for k in same):
        raise ValueError(f"{PICKLED} and {WEIGHTS} are not the same")
    return weights


def refuse_beyond_plain(vit: TimmEncoder, format: str) -> VisionTransformer:
    """`vit`, where it is a plain ViT: `format` would silently drop parts of another.

    The final norm may follow the pooling.  Raises UserError naming these parts.
    """
    if not isinstance(vit, VisionTransformer):
        raise UserError(
            f"--format {format} has names for plain Vision Transformers only, and this encoder is "
            f"one of {adapter_of(vit).name}; --format timm has them all"
        )
    final_norm = vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm
    blocks = list(vit.blocks.children())
    names = vit.state_dict()
    mlps = [block.mlp for block in blocks if isinstance(block, PLAIN)]
    norms = [m for m in vit.modules() if isinstance(m, nn.LayerNorm)]
    unsupported = {
        "no class token": not vit.has_class_token,
        "registers": vit.num_reg_tokens > 0,
        "a class token without a position": vit.has_class_token and vit.no_embed_class,
        "a norm before the blocks": not isinstance(vit.norm_pre, nn.Identity),
        "no final norm": not isinstance(final_norm, nn.LayerNorm),
        "a norm of the embedded patches": not isinstance(vit.patch_embed.norm, nn.Identity),
        "blocks of another kind": any(type(block) is not PLAIN for block in blocks),
        "normalised queries and keys": "blocks.0.attn.q_norm.weight" in names,
        "queries, keys and values without bias": "blocks.0.attn.qkv.bias" not in names,
        "layer scale": "blocks.0.ls1.gamma" in names,
        "another MLP": any(type(m) is not Mlp for m in mlps),
        "another activation than GELU": any(
            not isinstance(m.act, nn.GELU) or m.act.approximate != "none"
            for m in mlps
            if isinstance(m, Mlp)
        ),
        "LayerNorms of another epsilon than 1e-6": any(norm.eps != 1e-6 for norm in norms),
        "patches that are not square": len(set(vit.patch_embed.patch_size)) > 1,
        "patches projected without bias": vit.patch_embed.proj.bias is None,
    }
    if reasons := [reason for reason, applies in unsupported.items() if applies]:
        listed = ", ".join(reasons)
        raise UserError(f"--format {format} has no place for {listed}; --format timm has")
    return vit
