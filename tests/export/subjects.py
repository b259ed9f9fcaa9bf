"""Tiny models to export."""

import torch

from mae.config import Config, DataConfig, ModelConfig
from mae.export.facts import Facts
from mae.export.folder import Exported, export_folder
from mae.export.subject import Subject, choose_pool, resize
from mae.models.mae import build_mae
from mae.training.checkpoint import Position

POSITION = Position(step=7, samples=56, data="f" * 64)
NOTHING = Facts(None, [], {})


def config_of(**settings) -> Config:
    """ViT of two blocks at 16 x 16 px; `kwargs` go to timm, other settings to the model."""
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    bits = settings.pop("bits", 8)
    kwargs = sizes | settings.pop("kwargs", {})
    usual = {
        "encoder": "vit_tiny_patch16_224",
        "encoder_kwargs": kwargs,
        "img_size": (16, 16),
        "patch_size": 8,
        "decoder_embed_dim": 16,
        "decoder_depth": 2,
        "decoder_num_heads": 2,
    }
    model = ModelConfig.model_validate(usual | settings)
    numbers = tuple(0.1 + 0.1 * i for i in range(model.in_chans))
    data = DataConfig(train=("s.tar",), mean=numbers, std=numbers, bits=bits)
    return Config(data=data, model=model)


def subject_of(pool=None, decoder=True, img_size=None, **settings) -> Subject:
    """With every weight at random: an encoder fresh from the paper's initialisation hides bugs."""
    config = config_of(**settings)
    torch.manual_seed(0)
    model = build_mae(config.model, config.data.mean, config.data.std, config.data.bits).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pos_embed" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    trained_size = model.img_size
    if img_size:
        config = resize(config, model, img_size)
    return Subject(config, model, POSITION, choose_pool(model, pool), decoder, trained_size)


def images_of(subject: Subject, count=3) -> torch.Tensor:
    """Noise, uint8 or uint16 [b c h w]."""
    shape = (count, subject.config.model.in_chans, *subject.model.img_size)
    noise = torch.randint(0, subject.model.white + 1, shape, dtype=torch.int32)
    return noise.to(torch.uint8 if subject.config.data.bits == 8 else torch.uint16)


def exported(format, subject, out, facts=NOTHING, images=None) -> Exported:
    """As `mae export` does it."""
    images = images_of(subject) if images is None else images
    return export_folder(format, subject, images, facts, "3 images of noise", out)
