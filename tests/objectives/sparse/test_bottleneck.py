"""Sparse latents: the k largest, dead ones, gradients."""

import torch

from mae.objectives.autoencoders.backbones import MapShape
from mae.objectives.autoencoders.sparsity import keep_largest
from mae.objectives.base import StepEnd
from mae.objectives.sparse.bottleneck import TopKBottleneck
from tests.objectives.autoencoders.small import DONE, NO_PROGRESS, build, pictures, seeds


def test_the_k_largest_are_kept_and_alone_get_a_gradient():
    latents = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    kept = keep_largest(latents, 3)
    expected = torch.where(latents >= latents.topk(3, dim=1).values[:, -1:], latents, 0.0)
    assert torch.equal(kept, expected)
    weight = torch.randn(4, 9, dtype=torch.float64)
    (kept * weight).sum().backward()
    assert latents.grad is not None
    assert torch.equal(latents.grad, weight * (kept != 0))
    torch.autograd.gradcheck(lambda x: keep_largest(x, 3), (latents,))


def topk(dead_after: int = 10) -> TopKBottleneck:
    torch.manual_seed(0)
    return TopKBottleneck(MapShape(4, 2, 2), "vector", 6, k=2, aux_k=3, dead_after=dead_after)


def test_latents_die_when_unused_and_live_again():
    ours = topk()
    maps = torch.randn(1, 4, 2, 2).expand(5, -1, -1, -1)
    for number in (1, 2):
        latent = ours(maps, None, NO_PROGRESS)
        ours.after_step(StepEnd(number, 0, torch.tensor(False), latent.carry))
    used = latent.values[0] != 0
    assert ours.unused.tolist() == [0 if one else 10 for one in used.tolist()]
    assert torch.equal(ours.is_dead(), ~used)
    dead = ours.dead(maps)
    assert dead.any_dead == 1 and not dead.values[:, used].any()
    assert ((dead.values != 0).sum(dim=1) == 3).all()


def test_without_dead_latents_the_auxiliary_loss_is_zero():
    model = build("sparse", latent_dim=32, k=4)
    images = pictures()
    output = model(images, model.draw(images, seeds()), DONE)
    assert output.losses["sparsity"] == 0
    model.bottleneck.unused.fill_(1e9)
    output = model(images, model.draw(images, seeds()), DONE)
    assert output.losses["sparsity"] > 0


def test_the_auxiliary_loss_reaches_dead_latents_only_through_what_is_missing():
    model = build("sparse", latent_dim=8, k=2, aux_k=2, backbone="linear").double()
    model.bottleneck.unused[5] = 1e9
    images = pictures()
    output = model(images, model.draw(images, seeds()), DONE)
    output.losses["sparsity"].backward()
    gradient = model.bottleneck.to_latent.layer.weight.grad
    assert gradient[5].any() and not gradient[[0, 1, 2, 3, 4, 6, 7]].any()


def test_shrinking_latents_does_not_shrink_the_l1_penalty():
    model = build("sparse", sparsity="l1", latent_dim=8, backbone="linear").double()
    images = pictures()
    before = model(images, model.draw(images, seeds()), DONE)
    with torch.no_grad():
        model.bottleneck.to_latent.layer.weight /= 10
        model.bottleneck.to_latent.layer.bias /= 10
        model.from_latent.layer.weight *= 10
    after = model(images, model.draw(images, seeds()), DONE)
    torch.testing.assert_close(after.losses, before.losses)
