"""Other implementations of the training step, which ours is compared with."""

from typing import Any

import pytest
import torch

from benchmarks.implementations import (
    TEXTBOOK,
    TRANSFORMERS,
    TextbookStep,
    build_step,
    transformers_model,
)
from mae.base.errors import UserError
from mae.commands.bench.cases import OURS, Case
from mae.networks.vit import build_encoder
from mae.objectives.base import total_loss
from mae.objectives.mae.model import MaskedAutoencoder, build_mae

TINY = Case(encoder="vit_tiny_patch16_224", img_size=32, decoder_depth=1, batch_size=2)


def tiny_model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return build_mae(TINY.config())


@pytest.mark.parametrize("implementation", [TEXTBOOK, TRANSFORMERS])
def test_other_implementations_learn(implementation):
    step = build_step(TINY._replace(implementation=implementation))
    losses = [step().item() for _ in range(12)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_transformers_model_has_our_sizes():
    ours = tiny_model()
    theirs: Any = transformers_model(ours)
    trained = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (ours, theirs)]
    assert trained[0] == trained[1]
    assert theirs.config.mask_ratio == 0.75 and theirs.config.norm_pix_loss is True
    assert theirs.config._attn_implementation == "sdpa"


def test_sizes_that_transformers_does_not_support():
    encoder = build_encoder("vit_tiny_patch16_224", img_size=(16, 32), embed_dim=32, num_heads=2)
    with pytest.raises(UserError, match="ViTMAE is square and has one class token"):
        transformers_model(MaskedAutoencoder(encoder, decoder_depth=1, mask_ratio=0.5))


@pytest.mark.parametrize(
    ("implementation", "mode", "options"),
    [
        (OURS, "eager", []),
        (OURS, "compile", [{"mode": "default", "fullgraph": True, "dynamic": False}]),
        (TEXTBOOK, "compile", [{"mode": "default", "fullgraph": False, "dynamic": False}]),
        (OURS, "max-autotune", [{"mode": "max-autotune", "fullgraph": True, "dynamic": False}]),
    ],
)
def test_modes_are_those_of_a_run(implementation, mode, options, monkeypatch):
    """Graph breaks are allowed in other implementations, not in ours."""
    found = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: found.append(options))
    build_step(TINY._replace(implementation=implementation, mode=mode))
    assert found == options


def small_model(norm_pix_loss: bool = True) -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder = build_encoder(
        "vit_tiny_patch16_224", img_size=(16, 24), patch_size=4, embed_dim=32, depth=2, num_heads=2
    )
    return MaskedAutoencoder(
        encoder,
        norm_pix_loss=norm_pix_loss,
        decoder_embed_dim=16,
        decoder_depth=2,
        decoder_num_heads=2,
    )


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_the_textbook_step_equals_our_loss_and_gradients(norm_pix_loss):
    """Implementations that are compared for speed compute the same."""
    model = small_model(norm_pix_loss).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 3, 16, 24), dtype=torch.uint8, generator=generator)
    noise = model.draw(images, torch.arange(3))
    trained = [p for p in model.parameters() if p.requires_grad]
    outputs = model(images, noise, torch.zeros(())), TextbookStep(model)(images, noise)
    ours, theirs = map(total_loss, outputs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for own, other in zip(
        torch.autograd.grad(ours, trained),
        torch.autograd.grad(theirs, trained),
        strict=True,
    ):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)


def test_the_textbook_step_projects_and_decodes_every_patch():
    model = small_model()
    lengths: dict[str, int] = {}

    def record(name):
        return lambda module, inputs, output: lengths.update({name: output.shape[1]})

    model.encoder.patch_embed.register_forward_hook(record("projected"))
    model.encoder.blocks[0].register_forward_hook(record("encoded"))
    model.decoder.blocks[-1].register_forward_hook(record("decoded"))
    model.decoder.pred.register_forward_hook(record("predicted"))
    images = torch.zeros(1, 3, 16, 24, dtype=torch.uint8)
    TextbookStep(model)(images, model.draw(images, torch.arange(1)))
    assert lengths == {"projected": 24, "encoded": 1 + 6, "decoded": 25, "predicted": 25}
