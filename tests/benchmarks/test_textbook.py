import pytest
import torch

from benchmarks.textbook import TextbookStep
from mae.networks.vit import build_encoder
from mae.objectives.base import total_loss
from mae.objectives.mae.model import MaskedAutoencoder


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
def test_it_is_our_loss_with_our_gradients(norm_pix_loss):
    """Both ways to the same numbers: what is compared for speed does the same."""
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


def test_it_projects_and_decodes_every_patch():
    model = small_model()
    lengths: dict[str, int] = {}

    def note(name):
        return lambda module, inputs, output: lengths.update({name: output.shape[1]})

    model.encoder.patch_embed.register_forward_hook(note("projected"))
    model.encoder.blocks[0].register_forward_hook(note("encoded"))
    model.decoder.blocks[-1].register_forward_hook(note("decoded"))
    model.decoder.pred.register_forward_hook(note("predicted"))
    images = torch.zeros(1, 3, 16, 24, dtype=torch.uint8)
    TextbookStep(model)(images, model.draw(images, torch.arange(1)))
    assert lengths == {"projected": 24, "encoded": 1 + 6, "decoded": 25, "predicted": 25}
