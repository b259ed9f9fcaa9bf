import subprocess
import sys

PROGRAM = """
import torch
from mae.objectives.base import total_loss
from mae.networks.vit import build_encoder
from mae.objectives.mae.model import MaskedAutoencoder

torch.manual_seed(0)
encoder = build_encoder(
    "vit_tiny_patch16_224", img_size=(16, 16), patch_size=4, embed_dim=32, depth=2, num_heads=2
)
model = MaskedAutoencoder(encoder, decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2)
images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
split = model.draw(images, torch.arange(4))

start = torch.zeros(())
total_loss(model(images, split, start)).backward()
expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
for checkpointing in (False, True):
    model.zero_grad()
    model.set_grad_checkpointing(checkpointing)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    total_loss(compiled(images, split, start)).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    print("equal")
"""


def test_captured_as_one_graph_it_computes_the_same():
    """A subprocess is used, as the shape checks of the test session cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["equal"] * 2
