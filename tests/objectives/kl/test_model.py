"""The KL autoencoder against diffusers' module, its critic against two separate optimizers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mae.networks.latent_diffusion import LdmSettings
from mae.objectives.autoencoders.diffusers import LAYERS, renamed
from mae.objectives.base import StepEnd, total_loss
from mae.objectives.kl.critic import PatchCritic, generator_weight
from mae.objectives.registry import implementation
from tests.objectives.autoencoders.small import (
    DONE,
    NO_PROGRESS,
    build,
    pictures,
    seeds,
    small_config,
)

SMALL = {"stages": 2, "depth": 1, "critic_width": 8}


def diffusers_module(model: Any) -> Any:
    """diffusers' AutoencoderKL with the same weights, float64."""
    from diffusers import AutoencoderKL

    library: Any = AutoencoderKL
    theirs = library(**LdmSettings(1, 4, 8, 2, 1).model_settings()).double()
    theirs.load_state_dict(renamed(model.state_dict(), LAYERS), strict=True)
    return theirs


def test_loss_and_gradients_equal_those_of_diffusers_module():
    model = build("kl", kl_weight=0.01, **SMALL).double()
    images = pictures()
    noise = model.draw(images, seeds())
    output = model(images, noise, NO_PROGRESS)
    total_loss(output).backward()
    theirs = diffusers_module(model)
    pixels = model.normalize(images)
    posterior = theirs.encode(pixels).latent_dist
    latents = posterior.mean + posterior.std * noise.latent.view_as(posterior.mean)
    made = theirs.decode(latents).sample
    loss = (made - pixels).abs().mean() + 0.01 * posterior.kl().mean() / pixels[0].numel()
    loss.backward()
    torch.testing.assert_close(total_loss(output), loss, rtol=0, atol=1e-10)
    gradients = {name: one.grad for name, one in model.named_parameters()}
    ours = renamed(gradients, LAYERS)
    expected = dict(theirs.named_parameters())
    assert ours.keys() == expected.keys() and len(gradients) == len(ours)
    for name, parameter in expected.items():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=0, atol=1e-10, msg=name)
    torch.testing.assert_close(model.latents(images), posterior.mode(), rtol=0, atol=1e-10)


def test_gradients_equal_those_of_two_separate_optimizers():
    model = build("kl", adv=0.5, adv_start=0.2, **SMALL).double()
    images, progress = pictures(), torch.tensor(0.25).double()
    noise = model.draw(images, seeds())
    total_loss(model(images, noise, progress)).backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters()}

    model.zero_grad()
    target = model.normalize(images)
    latent = model.bottleneck(model.encoder(target), noise.latent, progress)
    made = model.decode_normalized(latent.values, target)
    verdict = model.critic(made).mean()  # of the generator's optimizer
    generator = (made - target).abs().mean() + latent.losses["kl"] - 0.25 * verdict
    generator.backward()
    for name, one in model.named_parameters():
        if not name.startswith("critic."):
            torch.testing.assert_close(found[name], one.grad, rtol=0, atol=1e-12, msg=name)
    model.zero_grad()
    real, fake = model.critic(target), model.critic(made.detach())
    hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    hinge.backward()
    for name, one in model.critic.named_parameters():
        torch.testing.assert_close(found[f"critic.{name}"], one.grad, rtol=0, atol=1e-12, msg=name)


def test_the_generators_weight_rises_from_a_share_of_the_run():
    weights = [generator_weight(0.5, 0.5, torch.tensor(at)).item() for at in (0, 0.5, 0.55, 0.6, 1)]
    assert weights == pytest.approx([0, 0, 0.25, 0.5, 0.5], abs=1e-6)
    late = [generator_weight(0.5, 0.96, torch.tensor(at)).item() for at in (0.96, 0.98, 1)]
    assert late == pytest.approx([0, 0.25, 0.5], abs=1e-5)


def test_the_critic_is_trained_from_the_first_step_and_no_image_depends_on_others():
    model = build("kl", adv=0.5, **SMALL)
    total_loss(model(pictures(), model.draw(pictures(), seeds()), NO_PROGRESS)).backward()
    assert all(one.grad is not None for one in model.parameters())
    assert all(one.grad.abs().sum() > 0 for one in model.critic.parameters() if one.ndim > 1)
    critic, pixels = PatchCritic(1, 8).double(), torch.rand(4, 1, 16, 16).double()
    torch.testing.assert_close(critic(pixels)[:1], critic(pixels[:1]), rtol=0, atol=1e-12)


def test_the_critic_has_its_own_learning_rate():
    model = build("kl", adv=0.5, critic_lr_scale=2.0, **SMALL)
    config = small_config("kl", adv=0.5, critic_lr_scale=2.0, **SMALL)
    groups = implementation("kl").parameter_groups(model, config)
    fast = {id(one) for group in groups if group.get("lr_scale") == 2 for one in group["params"]}
    assert fast == {id(one) for one in model.critic.parameters()}
    listed = [id(one) for group in groups for one in group["params"]]
    assert sorted(listed) == sorted(id(one) for one in model.parameters())


def test_only_the_decoder_is_trained_if_asked():
    model = build("kl", decoder_only=True, **SMALL)
    images = pictures()
    total_loss(model(images, model.draw(images, seeds()), DONE)).backward()
    trained = {name.split(".")[0] for name, one in model.named_parameters() if one.requires_grad}
    assert trained == {"decoder", "from_latent"}
    assert all((one.grad is not None) == one.requires_grad for one in model.parameters())


def test_moments_are_those_of_the_last_images_and_skipped_steps_do_not_count():
    bottleneck = build("kl", **SMALL).bottleneck
    assert bottleneck.scale() is None
    latents = 3 * torch.randn(64, 4, 8, 8) + torch.tensor([1.0, 0, -1, 2]).view(1, 4, 1, 1)

    def step(values: torch.Tensor, skipped: bool) -> None:
        from mae.objectives.kl.bottleneck import channel_moments

        carry = {"latents": channel_moments(values)}
        bottleneck.after_step(StepEnd(1, 0, torch.tensor(skipped), carry))

    step(latents, False)
    step(torch.full_like(latents, torch.nan), True)
    scale = bottleneck.scale()
    assert scale is not None
    assert scale.mean == pytest.approx(latents.mean((0, 2, 3)).tolist(), abs=1e-5)
    expected = latents.double().movedim(1, 0).flatten(1).std(dim=1, correction=0)
    assert scale.std == pytest.approx(expected.tolist(), rel=1e-6)
    assert scale.overall_std == pytest.approx(latents.double().std(correction=0).item(), rel=1e-6)
