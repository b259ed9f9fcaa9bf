"""Names of released weights → names in timm's Eva, for models with rotary positions.

Known are the releases of DINOv3 (and those that keep its names), of EVA, EVA-02 and their CLIP
models, Perception Encoder and Sapiens2, and transformers' DINOv3ViTModel.  timm's
`checkpoint_filter_fn` does the same for the releases; here every tensor is accounted for.
"""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from mae.networks.encoders.contract import NamedWeights, add_named


def rules(*pairs: tuple[str, str]) -> list[tuple[re.Pattern[str], str]]:
    """Compiled (pattern, replacement) pairs."""
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


UNUSED = rules(
    (r"(?:^|\.)rope(?!\.freqs$)|(?:^|\.)rope_embeddings?\.", "follows from the sizes"),
    (r"\.bias_mask$", "says that keys have no bias"),
    (r"^mask_token$", "of another pretraining"),
    (r"^local_cls_norm\.", "of another pretraining"),
    (r"^projectors\.", "of another pretraining"),
    (r"^lm_head\.", "a head"),
    (r"^(?:logit_scale$|text\.)", "not of the image encoder"),
)
"""name → reason why it is unused"""

SHARED = rules(
    (r"^(?:embeddings\.)?(?:storage|register)_tokens$", "reg_token"),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"\.attn\.gamma\.weight$", ".gamma_1"),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
    (r"\.attn\.w([qkv])\.", r".attn.\1_proj."),
    (r"\.ffn\.", ".mlp."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"^ln1\.", "norm."),
    (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
    (r"\.attn\.inner_attn_ln\.", ".attn.norm."),
    (r"\.mlp\.(?:w12|up_proj)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:w1|gate_proj)\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.(?:w3|down_proj)\.", ".mlp.fc2."),
)

PERCEPTION = rules(
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.ls_([12])\.gamma$", r".gamma_\1"),
    (r"\.in_proj_", ".qkv."),
    (r"\.out_proj\.", ".proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
"""names of Perception Encoder, in OpenCLIP's style"""

TOWERS = ("visual.trunk.", "visual.")
"""prefixes of the image encoder in models of images and texts"""


def to_timm_names(tensors: Mapping[str, Tensor], own: Collection[str]) -> NamedWeights:
    """Rename released weights for a module of timm's whose tensors are called `own`.

    A name that is known to neither stays as it is.  Raises UserError for two tensors of one name.
    """
    named: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    prefix = next((one for one in TOWERS if any(key.startswith(one) for key in tensors)), "")
    is_perception = f"{prefix}conv1.weight" in tensors
    patterns = PERCEPTION if is_perception else SHARED
    for key, tensor in tensors.items():
        if key in own:
            add_named(named, key, tensor, key)
            continue
        if not key.startswith(prefix):
            skipped[key] = "not of the image encoder"
            continue
        name = key.removeprefix(prefix)
        if is_perception and (name == "proj" or name.startswith("attn_pool.")):
            skipped[key] = "a head"
            continue
        if reason := next((why for pattern, why in UNUSED if pattern.search(name)), None):
            skipped[key] = reason
            continue
        for pattern, replacement in patterns:
            name = pattern.sub(replacement, name)
        if is_perception and name in ("cls_token", "pos_embed"):
            tensor = tensor.reshape(1, -1, tensor.shape[-1])
        _add(named, skipped, key, _fitting(name, own), tensor, own, f"{key}_mask" in tensors)
    return NamedWeights(_packed(named, own), skipped)


def _fitting(name: str, own: Collection[str]) -> str:
    """The name among several of the same tensor that the module has."""
    block, _, last = name.rpartition(".attn.")
    if match := re.fullmatch(r"([qv])(?:_bias|\.bias|_proj\.bias)", last):
        for form in ("{}_bias", "{}_proj.bias"):
            if (found := f"{block}.attn.{form.format(match[1])}") in own:
                return found
    if name.endswith((".mlp.fc1.weight", ".mlp.fc1.bias")) and name not in own:
        return name.replace(".fc1.", ".fc1_x.")
    return name


def _add(
    named: dict[str, Tensor],
    skipped: dict[str, str],
    key: str,
    name: str,
    tensor: Tensor,
    own: Collection[str],
    is_masked: bool,
) -> None:
    """Add a tensor; the common bias of queries, keys and values in the parts that timm has.

    `is_masked`: a mask beside it sets the bias of the keys to zero, whatever its numbers.
    """
    queries, values = (name.replace("qkv.bias", f"{letter}_bias") for letter in "qv")
    if not name.endswith(".attn.qkv.bias") or name in own:
        add_named(named, name, tensor, key)
    elif queries in own and (is_masked or not tensor.chunk(3)[1].nan_to_num().any()):
        query, _, value = tensor.chunk(3)
        add_named(named, queries, query, key)
        add_named(named, values, value, key)
        skipped[f"{key} (keys)"] = "zeros: keys of this model have no bias"
    elif not tensor.nan_to_num().any():
        skipped[key] = "zeros: this model has no such bias"
    else:
        # Refused as unknown: the model of timm's with the bias is another.
        add_named(named, name, tensor, key)


def _packed(named: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Split a common projection of queries, keys and values where the module has three."""
    found: dict[str, Tensor] = {}
    for name, tensor in named.items():
        parts = [name.replace(".attn.qkv.", f".attn.{letter}_proj.") for letter in "qkv"]
        if name in own or ".attn.qkv." not in name or parts[0] not in own:
            add_named(found, name, tensor, name)
            continue
        for part, one in zip(parts, tensor.chunk(3), strict=True):
            add_named(found, part, one, name)
    return found
