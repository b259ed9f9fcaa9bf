"""Tiny models to export."""

import torch

from mae.config.sections import Config, DataConfig
from mae.export.card import CardFacts
from mae.export.contract import ExportRequest, choose_pool, resize
from mae.export.folder import ExportResult, available_formats, export_folder
from mae.objectives.mae.declaration import MaeModel
from mae.objectives.mae.implementation import IMPLEMENTATION
from mae.objectives.mae.model import build_mae
from mae.objectives.registry import config_type
from mae.training.checkpoint.checkpoint_files import TrainingState

STATE = TrainingState(step=7, samples=56, data="f" * 64)
NO_FACTS = CardFacts(None, [], {})


def config_of(**settings) -> Config:
    """ViT of two blocks at 16 x 16 px; `kwargs` go to timm, other settings to the model."""
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    bits, channels = settings.pop("bits", 8), settings.pop("in_chans", 3)
    kwargs = sizes | settings.pop("kwargs", {})
    if "stages" in kwargs:  # of a hierarchical encoder, instead of its depth
        del kwargs["depth"]
    usual = {
        "encoder": "vit_tiny_patch16_224",
        "encoder_kwargs": kwargs,
        "patch_size": 8,
        "decoder_embed_dim": 16,
        "decoder_depth": 2,
        "decoder_num_heads": 2,
    }
    numbers = tuple(0.1 + 0.1 * i for i in range(channels))
    data = DataConfig(
        train=("s.tar",),
        mean=numbers,
        std=numbers,
        bits=bits,
        img_size=(16, 16),
        in_chans=channels,
    )
    return config_type("mae")(data=data, model=MaeModel.model_validate(usual | settings))


def export_request(pool=None, decoder=True, img_size=None, **settings) -> ExportRequest:
    """Request with random numbers in all weights: the paper's initialisation would hide bugs."""
    config = config_of(**settings)
    torch.manual_seed(0)
    model = build_mae(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pos_embed" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    trained_size = model.img_size
    if img_size:
        config = resize(config, model, IMPLEMENTATION, img_size)
    pool = choose_pool(model, IMPLEMENTATION, pool)
    return ExportRequest(config, model, STATE, pool, decoder, trained_size)


def images_of(request: ExportRequest, count=3) -> torch.Tensor:
    """Random images, uint8 or uint16 [b c h w]."""
    data = request.config.data
    shape = (count, data.in_chans, *request.model.img_size)
    noise = torch.randint(0, 2**data.bits, shape, dtype=torch.int32)
    return noise.to(torch.uint8 if data.bits == 8 else torch.uint16)


def exported(format, request, out, facts=NO_FACTS, images=None) -> ExportResult:
    """Export as `mae export` does."""
    images = images_of(request) if images is None else images
    write = available_formats(request.model, IMPLEMENTATION)[format]
    return export_folder(write, request, images, facts, "3 images of noise", out)
