import numpy as np
import pytest

from mae.base.hashing import Stream, fold, mix, uniforms

WORDS = [0, 1, 2, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 2**64 - 1, 0x0123456789ABCDEF]


def splitmix64(seed, count):
    """First `count` words of SplitMix64 from `seed`: Vigna's reference code, on Python integers."""
    words = []
    for i in range(1, count + 1):
        z = (seed + i * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        words.append(z ^ (z >> 31))
    return words


def test_golden_vectors():
    # Fixed values: changing one changes the data order, crops and masks of every run.
    assert mix(np.array([0, 1, 2**64 - 1], np.uint64)).tolist() == [
        0,
        0x5692161D100B05E5,
        0xB4D055FCF2CBBD7B,
    ]
    assert fold(0).tolist() == [0xE220A8397B1DCDAF]
    assert fold(7, Stream.VIEW, np.array([0, 1]), np.array([5, 6])).tolist() == [
        0x6ADC8F938E446AEB,
        0xD33415370A9315A2,
    ]
    assert uniforms(np.array([42], np.uint64), 3)[0].tolist() == [
        0.7415648787718233,
        0.1599103928769201,
        0.27860113025513866,
    ]


@pytest.mark.parametrize("seed", WORDS)
def test_hashes_equal_splitmix64(seed):
    expected = splitmix64(seed, 5)
    assert fold(seed).tolist() == expected[:1]
    assert uniforms(np.array([seed], np.uint64), 5)[0].tolist() == [
        (word >> 11) * 2.0**-53 for word in expected
    ]


def test_mix_is_injective():
    assert len(np.unique(mix(np.arange(100_000, dtype=np.uint64)))) == 100_000


def test_fold_depends_on_every_value_and_on_their_order():
    keys = [fold(0), fold(1), fold(0, 1), fold(1, 0), fold(0, 1, 2), fold(0, 2, 1), fold(0, 1, 3)]
    assert len(np.unique(np.concatenate(keys))) == len(keys)


@pytest.mark.parametrize("seed", [0, 5, 2**64 - 1])
def test_integers_are_folded_as_arrays_are(seed):
    for values in [(), (0,), (7, 2**63 - 1), (Stream.STEP, 3, 0, 12)]:
        arrays = [np.array([value]) for value in values]
        assert fold(seed, *values).tolist() == fold(seed, *arrays).tolist()
        assert fold(seed, *values).dtype == np.uint64


def test_fold_broadcasts_elementwise():
    epochs, samples = np.array([3, 4]), np.array([10, 11])
    both = fold(9, Stream.OBJECTIVE, epochs, samples)
    alone = [fold(9, Stream.OBJECTIVE, e, s) for e, s in ((3, 10), (4, 11))]
    assert both.tolist() == np.concatenate(alone).tolist()


def test_streams_of_one_seed_differ():
    assert len({fold(0, stream).item() for stream in Stream}) == len(Stream)


def test_flipping_an_input_bit_flips_half_of_the_output_bits():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, 1000, np.uint64)
    for bit in range(64):
        changed = mix(words) ^ mix(words ^ np.uint64(1 << bit))
        flipped = np.bitwise_count(changed).mean()
        # 64 fair coins have standard deviation 4.
        assert abs(flipped - 32) < 5 * 4 / np.sqrt(1000), bit


@pytest.mark.parametrize("key", [0, 1, 2**64 - 1])
def test_uniforms_are_uniform(key):
    draws = uniforms(np.array([key], np.uint64), 50_000)[0]
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, bins=100, range=(0, 1))[0]
    # 99 degrees of freedom: mean 99, standard deviation 14.
    chi_square = ((counts - 500) ** 2 / 500).sum()
    assert 99 - 5 * 14 < chi_square < 99 + 5 * 14
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / np.sqrt(50_000)
