"""The range coder: lossless, as short as the entropy, the same bytes everywhere."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae.compression.range_coder import TOTAL, Decoder, encode

GOLDEN = "07ffffe631"


def coded(symbols, cumulative):
    ends = [*cumulative[1:], TOTAL]
    starts = [cumulative[one] for one in symbols]
    return encode(starts, [ends[one] - cumulative[one] for one in symbols])


def decoded(payload, count, cumulative):
    decoder = Decoder(payload)
    return [decoder.symbol(cumulative) for _ in range(count)]


@given(st.data())
def test_any_symbols_come_back(data):
    starts = data.draw(st.sets(st.integers(1, TOTAL - 1), max_size=20))
    cumulative = [0, *sorted(starts)]
    symbols = data.draw(st.lists(st.integers(0, len(cumulative) - 1), max_size=200))
    payload = coded(symbols, cumulative)
    assert decoded(payload, len(symbols), cumulative) == symbols
    ends = [*cumulative[1:], TOTAL]
    bits = -sum(math.log2((ends[one] - cumulative[one]) / TOTAL) for one in symbols)
    assert 8 * len(payload) <= bits + 16


@pytest.mark.parametrize("symbol", [0, 1, 2])
def test_carries_and_the_edges_of_the_interval(symbol):
    cumulative = [0, 1, TOTAL - 1]  # intervals of width 1 at both ends
    for symbols in ([symbol] * 500, [2, 1] * 100 + [symbol], [0, 2, 2, 0, 1] * 50):
        payload = coded(symbols, cumulative)
        assert decoded(payload, len(symbols), cumulative) == symbols


def test_the_bytes_are_those_of_version_1():
    cumulative = [0, 1 << 20, 1 << 23, (1 << 24) - 3]
    assert coded([0, 1, 2, 3, 2, 1, 0, 2, 2, 1], cumulative).hex() == GOLDEN


def test_as_short_as_constriction():
    """An independent coder of the same tables: constriction, with weights that are integers."""
    stream = pytest.importorskip("constriction").stream
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.full(64, 0.3))
    frequencies = 1 + np.floor(shares * (TOTAL - 64)).astype(np.int64)
    frequencies[frequencies.argmax()] += TOTAL - frequencies.sum()
    symbols = generator.choice(64, 20_000, p=frequencies / TOTAL)
    cumulative = np.concatenate([[0], frequencies.cumsum()[:-1]]).tolist()
    payload = coded(symbols.tolist(), cumulative)
    assert decoded(payload, len(symbols), cumulative) == symbols.tolist()
    model = stream.model.Categorical((frequencies - 1).astype(np.float64), perfect=False)
    other = stream.queue.RangeEncoder()
    other.encode(symbols.astype(np.int32), model)
    assert abs(len(payload) - 4 * len(other.get_compressed())) <= 8


@given(st.binary(max_size=100))
def test_any_bytes_decode_to_something(payload):
    assert len(decoded(payload, 300, [0, 5, 1 << 22])) == 300
