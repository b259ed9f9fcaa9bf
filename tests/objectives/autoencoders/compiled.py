"""One compiled graph for any progress, of every autoencoder: `python -m` this module, NAMES.

In a process of its own, since the shape checks of the tests do not compile.
"""

import sys
from typing import Any

import torch

from mae.objectives.base import Objective, total_loss
from tests.objectives.autoencoders.small import build, pictures, seeds, small_prior
from tests.objectives.sae.small import small_sae

CASES = {
    **{name: ({}, {"backbone": "vit"}) for name in ("ae", "dae", "vae", "vqvae", "vqvae2", "fsq")},
    "noise2void": ({}, {"method": "noise2noise"}),
    "sparse": ({}, {"sparsity": "l1", "backbone": "vit"}),
    "beta_vae": ({},),
    "kl": ({"adv": 0.5, "eq": 0.5, "stages": 2, "depth": 1, "critic_width": 8},),
    "aae": ({},),
    "ladder": ({}, {"groups": (2, 3), "beta_warmup": 0.0}),
    "prior": ({"kind": "causal"}, {"kind": "masked"}, {"tokenizer": "vqvae2"}),
    "sae": ({}, {"k": 3}),
}


def objective_of(name: str, **model: Any) -> Objective:
    """Small objective; those with a first stage on one that has learned nothing."""
    if name == "prior":
        return small_prior(depth=1, **model)
    if name == "sae":
        return small_sae(channels=1, **model)
    return build(name, **model)


def check(objective: Objective, autocast: bool) -> None:
    """Compare the compiled forward pass with the eager one; carry and statistics stay precise."""
    objective.train()
    images = pictures(4)
    noise = objective.draw(images, seeds(4))
    torch._dynamo.reset()
    compiled = torch.compile(objective, fullgraph=True, dynamic=False, backend="aot_eager")
    for progress in (0.0, 0.25, 0.9):
        start = torch.tensor(progress)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            expected, found = objective(images, noise, start), compiled(images, noise, start)
        torch.testing.assert_close(total_loss(found), total_loss(expected), rtol=1e-3, atol=1e-5)
        for part in ("statistics", "carry"):
            ours, theirs = getattr(found, part), getattr(expected, part)
            assert ours.keys() == theirs.keys()
            for key, one in ours.items():
                assert one.dtype == theirs[key].dtype != torch.bfloat16, (part, key)
                if not autocast:
                    torch.testing.assert_close(one, theirs[key], rtol=1e-4, atol=1e-5)
    total_loss(found).backward()


def main() -> None:
    """Check every case of the objectives named on the command line."""
    torch._dynamo.config.error_on_recompile = True
    for name in sys.argv[1:]:
        for model in CASES[name]:
            check(objective_of(name, **model), autocast=not model)
            print(name, *model.values(), "equal", flush=True)


if __name__ == "__main__":
    main()
