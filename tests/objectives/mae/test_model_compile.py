import subprocess
import sys

from tests.networks.encoders.option_sets import tiny_arguments

PROGRAM = """
import torch
from mae.objectives.base import total_loss
from mae.networks.vit import build_encoder
from mae.objectives.mae.model import MaskedAutoencoder

images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
start = torch.zeros(())
for called, arguments in NAMES.items():
    torch.manual_seed(0)
    encoder = build_encoder(called, img_size=(16, 16), patch_size=4, **arguments)
    model = MaskedAutoencoder(encoder, decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2)
    split = model.draw(images, torch.arange(4))
    total_loss(model(images, split, start)).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for checkpointing in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(checkpointing)
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        total_loss(compiled(images, split, start)).backward()
        for name, p in model.named_parameters():
            if p.requires_grad:
                torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)
        print("equal")
    if called not in BF16:
        continue
    model.set_grad_checkpointing(False)
    exact = total_loss(model(images, split, start))
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        expected = total_loss(model(images, split, start))
        found = total_loss(compiled(images, split, start))
    assert found.dtype == torch.float32 and 0 < (expected - exact).abs() < 0.02
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    print("equal")
"""
NAMES = {
    name: tiny_arguments(name)
    for name in (
        "vit_tiny_patch16_224",
        "vit_small_patch16_dinov3_qkvb",
        "vit_small_patch16_rope_mixed_ape_224",
        "hiera_tiny_224",
    )
}
BF16 = ("vit_small_patch16_rope_mixed_ape_224", "hiera_tiny_224")
"""names that are compiled in bf16, too: with rotations as a parameter, with stages"""


def test_captured_as_one_graph_it_computes_the_same():
    """A subprocess is used, as the shape checks of the test session cannot be compiled."""
    program = f"NAMES = {NAMES}\nBF16 = {BF16}\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["equal"] * (2 * len(NAMES) + len(BF16))
