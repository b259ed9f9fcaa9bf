"""Names of timm's at their published sizes, as shapes without storage: built, run, exported."""

from contextlib import suppress
from typing import Any

import pytest
import timm
import torch
from torch import nn

from mae.base.errors import UserError
from mae.networks.encoders.registry import TimmEncoder, adapter_of
from mae.networks.encoders.survey import survey
from mae.networks.vit import build_encoder, forward_visible
from mae.objectives.base import total_loss
from mae.objectives.mae.model import MaskedAutoencoder
from tests.networks.encoders.option_sets import SETS


def shapes_of(module: nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in module.state_dict().items()}


def built(name: str) -> tuple[TimmEncoder, dict[str, Any]]:
    """The encoder with two blocks, where timm takes that number: the others are copies."""
    with suppress(UserError):
        return build_encoder(name, depth=2), {"depth": 2}
    return build_encoder(name), {}


def check(name: str) -> None:
    """A masked autoencoder of it, there and back; timm builds the same of the arguments."""
    with torch.device("meta"):
        encoder, arguments = built(name)
        adapter = adapter_of(encoder)
        shape = adapter.shape(encoder)
        visible = shape.num_patches // 4
        pixels = shape.in_chans * shape.patch_size[0] * shape.patch_size[1]
        ids = torch.zeros(2, visible, dtype=torch.int64)
        found = forward_visible(encoder, torch.zeros(2, visible, pixels), ids)
        assert [tokens.shape[2] for tokens in found] == list(shape.widths)
        assert found[-1].shape == (2, shape.num_prefix_tokens + visible, shape.embed_dim)
        model = MaskedAutoencoder(encoder, decoder_embed_dim=16, decoder_depth=1)
        images = torch.zeros(2, shape.in_chans, *shape.img_size, dtype=torch.uint8)
        split = model.draw(images, torch.zeros(2, dtype=torch.int64))
        total_loss(model(images, split, torch.zeros(()))).backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without
        arguments |= adapter.timm_arguments(encoder)
        pool = "token" if shape.has_class_token else "avg"
        theirs = timm.create_model(name, num_classes=0, global_pool=pool, **arguments)
        assert type(theirs) is adapter.kind and shapes_of(theirs) == shapes_of(encoder)


@pytest.mark.parametrize("name", SETS)
def test_one_name_of_each_option_set(name):
    check(name)


@pytest.mark.fault
def test_every_supported_name():
    failures: dict[str, str] = {}
    names = [one.name for one in survey() if not one.reason]
    for name in names:
        try:
            check(name)
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}"
    assert len(names) > 200 and not failures
