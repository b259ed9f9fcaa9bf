"""Settings of the objectives that train one of timm's Vision Transformers."""

from collections.abc import Iterator

from pydantic import Field

from mae.config.types import Positive, Section

SET_ELSEWHERE = {"img_size", "patch_size", "in_chans", "num_classes", "global_pool", "pretrained"}
"""arguments of timm.create_model that are settings of their own"""


class VitModel(Section):
    """Encoder by its timm name."""

    encoder: str = "vit_base_patch16_224"
    """a plain Vision Transformer of timm"""
    encoder_kwargs: dict[str, float | int | bool] = Field(default_factory=dict)
    """further arguments for timm.create_model, such as embed_dim, depth, num_heads"""
    patch_size: Positive | None = None
    """pixels (default: the encoder's)"""


def refuse_arguments(model: VitModel) -> Iterator[tuple[str, str]]:
    """(key, message) of arguments in `encoder_kwargs` that are settings of their own."""
    for key in sorted(SET_ELSEWHERE & model.encoder_kwargs.keys()):
        yield f"model.encoder_kwargs.{key}", "is set elsewhere (data.img_size and so on)"
