"""Memory of training does not grow with the number of tokens: measured in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import resource
import sys
from pathlib import Path

import torch

from mae.objectives.base import total_loss
from tests.objectives.sae.small import small_sae, take_step

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

model, tokens = small_sae(), int(sys.argv[1])
optimizer = torch.optim.AdamW(model.dictionary.parameters(), lr=1e-3)
seen, step, after_warm_up = 0, 2, 0
while seen < tokens:
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    total_loss(model(images, None, torch.zeros(()))).backward()
    optimizer.step()
    optimizer.zero_grad()
    step += 1
    take_step(model, images, step)
    seen += 64 * 16
    if not after_warm_up and seen >= tokens // 4:
        after_warm_up = resident()
print(after_warm_up, resident())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("tokens", [100_000, pytest.param(1_000_000, marks=pytest.mark.fault)])
def test_memory_stays_flat(tokens):
    """100,000 tokens stored in float32 would be 6.4 MB; a graph kept alive would be far more."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tokens)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after - before < 4e6, f"{(after - before) / 1e6:.1f} MB more for {tokens:,} tokens"
