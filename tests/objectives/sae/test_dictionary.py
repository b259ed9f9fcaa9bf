"""BatchTopK dictionary of tokens: equal to a plain implementation; measured start; threshold."""

import pytest
import torch
from torch import Tensor

from mae.objectives.base import StepEnd, total_loss
from mae.objectives.sae.dictionary import TokenDictionary

WIDTH, LATENTS, K, GROUP, AUX_K = 6, 20, 3, 2, 2
DEAD = [2, 5, 7]
CENTRE, SCALE = 0.3, 1.7


def fresh() -> TokenDictionary:
    """Float64, before its first step."""
    torch.manual_seed(0)
    return TokenDictionary(
        WIDTH,
        LATENTS,
        k=K,
        group=GROUP,
        aux_weight=1 / 32,
        aux_k=AUX_K,
        dead_after=1000,
        threshold_decay=0.5,
    ).double()


def dictionary() -> TokenDictionary:
    """Float64, with random weights, as after its first steps."""
    ours = fresh()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ours.centre.fill_(CENTRE)
    ours.scale.fill_(SCALE)
    ours.is_started.fill_(True)
    ours.unused[DEAD] = 1e6
    return ours


def tokens(images: int = 4, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(images, count, WIDTH, dtype=torch.float64, generator=generator) + CENTRE


def plain_losses(ours: TokenDictionary, given: Tensor) -> tuple[Tensor, Tensor]:
    """Both losses, token by token: Bussmann et al. 2024, equations 3 to 5, and Gao et al. 2024."""
    rows = ours.decoder / ours.decoder.square().sum(dim=1, keepdim=True).sqrt()
    errors, dead_errors = [], []
    for start in range(0, len(given), GROUP):
        inputs = ((given[start : start + GROUP] - CENTRE) * SCALE).reshape(-1, WIDTH)
        scores = (inputs - ours.decoder_bias) @ ours.encoder.T + ours.encoder_bias
        positive = scores.clamp(min=0)
        ordered = sorted(positive.flatten().tolist(), reverse=True)
        smallest = ordered[K * len(inputs) - 1]
        for x, latent in zip(inputs, positive, strict=True):
            kept = latent * (latent >= smallest)
            missing = x - (kept @ rows + ours.decoder_bias)
            errors.append(missing.square())
            dead = sorted(DEAD, key=lambda one: -latent[one].item())[:AUX_K]
            made = sum((latent[one] * rows[one] for one in dead), torch.zeros(WIDTH))
            dead_errors.append((missing.detach() - made).square())
    return torch.stack(errors).mean(), torch.stack(dead_errors).mean() / 32


def gradients(ours: TokenDictionary, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(ours.parameters()), retain_graph=True))


def test_losses_and_gradients_equal_a_plain_implementation():
    ours = dictionary()
    output = ours(tokens())
    expected = plain_losses(ours, tokens())
    for found, one in zip(output.losses.values(), expected, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-12, atol=1e-12)
    pairs = zip(
        gradients(ours, total_loss(output)), gradients(ours, expected[0] + expected[1]), strict=True
    )
    for found, one in pairs:
        assert one.any()
        torch.testing.assert_close(found, one, rtol=1e-10, atol=1e-12)


def test_the_residual_of_the_auxiliary_loss_is_detached():
    ours = dictionary()
    decoder_bias = ours.decoder_bias
    (gradient,) = torch.autograd.grad(ours(tokens()).losses["dead"], [decoder_bias])
    given = (tokens() - CENTRE) * SCALE
    positive = ours.scores(given).relu()
    largest = positive[..., DEAD].topk(AUX_K, dim=2)
    kept = torch.zeros_like(positive[..., DEAD]).scatter(2, largest.indices, largest.values)
    missing = given - ours.combine(ours.keep_in_groups(positive))
    loss = (missing.detach() - kept @ ours.directions()[DEAD]).square().mean() / 32
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, [decoder_bias])[0])


def test_the_gradient_of_a_direction_is_at_right_angles_to_it():
    ours = dictionary()
    gradient = gradients(ours, total_loss(ours(tokens())))[0]
    assert gradient.any()
    along = (gradient * ours.decoder.detach()).sum(dim=1)
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-14)


def test_groups_are_independent_of_each_other():
    ours, given = dictionary(), tokens()
    whole = ours(given).statistics
    parts = [ours(given[start : start + GROUP]).statistics for start in (0, 2)]
    for key in ("errors", "active", "tokens", "squares", "sums"):
        torch.testing.assert_close(parts[0][key] + parts[1][key], whole[key], rtol=1e-12, atol=0)
    assert whole["active"] == K * 20


def end_step(ours: TokenDictionary, given: Tensor, number: int, skipped: bool = False) -> None:
    output = ours(given)
    ours.after_step(StepEnd(number, 0, torch.tensor(skipped), output.carry))


def test_the_first_step_measures_the_tokens_and_trains_nothing():
    ours, given = fresh(), 5 * tokens(40)
    assert torch.equal(ours.decoder, ours.encoder)
    output = ours(given)
    assert [one.item() for one in output.losses.values()] == [1.0, 0.0]
    assert not any(one.any() for one in gradients(ours, total_loss(output)))
    assert not output.statistics["tokens"]
    for number in range(1, 8):
        end_step(ours, given, number, skipped=True)
    assert not ours.is_started and not ours.centre.any()
    end_step(ours, given, 8)
    rows = ours.normalise(given).flatten(0, 1)
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(WIDTH).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(rows.square().mean(), torch.ones(()).double())
    centre, scale = ours.centre.clone(), ours.scale.clone()
    end_step(ours, 7 * given, 9)
    assert torch.equal(ours.centre, centre) and torch.equal(ours.scale, scale)
    assert ours(given).statistics["tokens"] == 200


def test_tokens_that_are_all_the_same_are_no_division_by_zero():
    ours = fresh()
    end_step(ours, torch.ones(4, 5, WIDTH).double(), 1)
    assert ours.scale == 1
    assert all(one.isfinite() for one in ours(tokens()).losses.values())


def test_the_threshold_is_the_average_of_the_smallest_kept_latents():
    ours = dictionary()
    smallest = []
    for number in range(1, 5):
        given = number * tokens(GROUP)
        positive = ours.scores(ours.normalise(given)).detach().relu().flatten()
        smallest.append(positive.topk(K * 10).values[-1].item())
        end_step(ours, given, number + 10)
    average = (smallest[0] + smallest[1]) / 2
    for one in smallest[2:]:
        average += 0.5 * (one - average)
    assert ours.threshold.item() == pytest.approx(average, rel=1e-12)
    before = ours.threshold.clone()
    end_step(ours, 9 * tokens(GROUP), 15, skipped=True)
    assert torch.equal(ours.threshold, before)


def test_a_threshold_gives_about_as_many_latents_as_batch_topk():
    ours, given = dictionary(), tokens(100, 20)
    end_step(ours, given, 11)
    active = (ours.latents(given) > 0).sum(dim=2).double().mean()
    assert active == pytest.approx(K, rel=0.02)


def test_steps_leave_directions_of_length_one_and_skipped_ones_change_nothing():
    ours = dictionary()
    before = {name: one.clone() for name, one in ours.state_dict().items()}
    end_step(ours, tokens(), 11, skipped=True)
    assert all(torch.equal(one, before[name]) for name, one in ours.state_dict().items())
    end_step(ours, tokens(), 12)
    torch.testing.assert_close(ours.decoder.norm(dim=1), torch.ones(LATENTS).double())
    assert set(ours.unused.tolist()) <= {0.0, 20.0, 1e6 + 20}


@torch.no_grad()
def test_folded_weights_are_the_same_autoencoder_of_tokens_as_they_are():
    ours, given = dictionary(), tokens()
    end_step(ours, given, 11)
    folded = ours.folded()
    scores = (given - folded.decoder_bias) @ folded.encoder.T + folded.encoder_bias
    latents = torch.where(scores > folded.threshold, scores, 0.0)
    torch.testing.assert_close(latents, ours.latents(given))
    torch.testing.assert_close(latents @ folded.decoder + folded.decoder_bias, ours.decode(latents))
    torch.testing.assert_close(folded.decoder.norm(dim=1), torch.ones(LATENTS).double())
