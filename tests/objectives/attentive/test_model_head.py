import numpy as np
import pytest
import torch

from mae.objectives.attentive.model import AttentiveHead


def head_of(width, classes, seed=0):
    head = AttentiveHead(width, classes, torch.Generator().manual_seed(seed)).double()
    for parameter in head.parameters():  # nothing may hide behind zeros
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    return head


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (128, 2), (192, 3), (130, 2)])
def test_pooling_is_multi_head_attention_written_out(width, heads):
    head = head_of(width, 5)
    assert head.num_heads == heads
    tokens = np.random.default_rng(0).standard_normal((3, 7, width))
    query, key, value = (
        tensor.detach().numpy() for tensor in (head.query, head.key.weight, head.value.weight)
    )
    size, pooled = width // heads, np.zeros((3, width))
    for image in range(3):
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            scores = [query[own] @ (key @ token)[own] / size**0.5 for token in tokens[image]]
            chance = np.exp(scores - np.max(scores)) / np.exp(scores - np.max(scores)).sum()
            values = [(value @ token + head.value.bias.detach().numpy()) for token in tokens[image]]
            pooled[image, own] = sum(a * v[own] for a, v in zip(chance, values, strict=True))
    given = torch.from_numpy(tokens)
    np.testing.assert_allclose(head.pool(given).detach().numpy(), pooled, rtol=1e-9, atol=1e-12)
    normal = (pooled - pooled.mean(1, keepdims=True)) / np.sqrt(pooled.var(1) + 1e-6)[:, None]
    normal = normal * head.norm.weight.detach().numpy() + head.norm.bias.detach().numpy()
    scores = normal @ head.classify.weight.detach().numpy().T + head.classify.bias.detach().numpy()
    np.testing.assert_allclose(head(given).detach().numpy(), scores, rtol=1e-9, atol=1e-12)


def test_pooling_does_not_depend_on_the_order_of_the_tokens():
    head, tokens = head_of(32, 3), torch.randn(2, 9, 32, dtype=torch.float64)
    torch.testing.assert_close(head(tokens), head(tokens[:, torch.randperm(9)]))
