"""Folders of diffusers' autoencoders: names of the tensors, loading without missing ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

LAYERS = {
    "bottleneck.to_latent.layer": "quant_conv",
    "from_latent.layer": "post_quant_conv",
}
"""names of our layers → theirs, besides encoder and decoder, which have the same"""


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of encoder, decoder and the modules in `names`, with diffusers' names."""
    found = {}
    for key, tensor in tensors.items():
        start = next((one for one in names if key.startswith(one)), None)
        if start is not None:
            found[names[start] + key.removeprefix(start)] = tensor
        elif key.startswith(("encoder.", "decoder.")):
            found[key] = tensor
    return found


def open_whole(library: Any, folder: Path) -> Any:
    """Model of diffusers' class `library` in `folder`, in evaluation mode.

    Raises ValueError where a tensor is missing in the file, which diffusers leaves random with no
    more than a warning, or does not fit.
    """
    model, info = library.from_pretrained(
        folder, output_loading_info=True, use_safetensors=True, low_cpu_mem_usage=False
    )
    if odd := [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]:
        raise ValueError(f"{odd[0]} is missing or does not fit")
    return model.eval()
