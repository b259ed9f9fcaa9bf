import torch

from mae.objectives.attentive.model import AttentiveProbe
from tests.evaluation.frozen import tiny_encoder
from tests.objectives.losses import START

WIDTH, CLASSES = 32, 3


def probe(copies: int) -> AttentiveProbe:
    return AttentiveProbe(tiny_encoder(), WIDTH, CLASSES, copies=copies, seed=0)


def gradients(model: AttentiveProbe, head: int) -> dict[str, torch.Tensor]:
    tokens = torch.randn(8, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(8) % CLASSES
    model.zero_grad()
    output = model(tokens, model.draw(tokens, labels, labels), START)
    output.losses["cross_entropy"].backward()
    assert output.losses["cross_entropy"].isfinite() or len(model.heads) == 1
    found = model.heads[head].named_parameters()
    return {name: p.grad.clone() for name, p in found if p.grad is not None}


def test_a_non_finite_head_does_not_affect_the_others():
    """Its own gradient is 0; the others' equal those of training without it."""
    alone, together = probe(1), probe(3)
    expected = gradients(alone, 0)
    with torch.no_grad():
        together.heads[1].get_parameter("classify.weight").fill_(float("inf"))
    for head in (0, 2):
        found = gradients(together, head)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)
    assert all(not gradient.any() for gradient in gradients(together, 1).values())


def test_a_single_non_finite_head_has_non_finite_gradients():
    """The trainer then skips and counts the step, as in any run."""
    model = probe(1)
    with torch.no_grad():
        model.heads[0].get_parameter("classify.weight").fill_(float("inf"))
    assert not all(gradient.isfinite().all() for gradient in gradients(model, 0).values())
