import numpy as np
import pytest
import torch

from mae.base.hashing import fold
from mae.objectives.mae.masking import (
    binary_mask,
    num_visible,
    random_masking,
    random_partition,
)


def seeds_of(count, seed=0):
    return torch.from_numpy(fold(seed, np.arange(count)).view(np.int64))


def test_golden_ids():
    split = random_masking(torch.tensor([0, -5]), 16, 0.75)
    assert split.ids_keep.tolist() == [[15, 12, 13, 14], [1, 4, 12, 3]]
    assert split.ids_masked.tolist() == [
        [11, 7, 0, 9, 3, 2, 4, 6, 8, 5, 10, 1],
        [9, 2, 14, 13, 11, 6, 0, 10, 5, 15, 7, 8],
    ]


@pytest.mark.parametrize("num_patches", [1, 2, 7, 16, 49, 100, 196, 256, 1024])
@pytest.mark.parametrize("mask_ratio", [0.0, 0.1, 0.5, 0.6, 0.75, 0.9, 0.99])
def test_the_official_number_of_patches_is_hidden(num_patches, mask_ratio):
    visible = int(num_patches * (1 - mask_ratio))
    split = random_masking(seeds_of(3), num_patches, mask_ratio)
    assert num_visible(num_patches, mask_ratio) == visible
    assert split.ids_keep.shape == (3, visible)
    assert split.ids_masked.shape == (3, num_patches - visible)
    assert binary_mask(split).sum(dim=1).tolist() == [num_patches - visible] * 3


def test_paper_setting_hides_147_of_196():
    assert 196 - num_visible(196, 0.75) == 147


def test_ids_are_a_permutation_of_each_sample():
    split = random_masking(seeds_of(50), 196, 0.75)
    ids = torch.cat(split, dim=1)
    assert torch.equal(ids.sort(dim=1).values, torch.arange(196).expand(50, -1))
    assert len(torch.unique(split.ids_keep, dim=0)) == 50


def test_binary_mask_is_one_where_removed():
    split = random_masking(seeds_of(4), 30, 0.6)
    mask = binary_mask(split)
    for row in range(4):
        assert mask[row, split.ids_keep[row]].eq(0).all()
        assert mask[row, split.ids_masked[row]].eq(1).all()


def test_a_mask_depends_on_its_seed_alone():
    seeds = seeds_of(20)
    together = binary_mask(random_masking(seeds, 49, 0.75))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = binary_mask(random_masking(seeds[order], 49, 0.75))
    alone = torch.cat([binary_mask(random_masking(seed[None], 49, 0.75)) for seed in seeds])
    assert torch.equal(shuffled, together[order])
    assert torch.equal(alone, together)


def test_a_higher_ratio_hides_more_of_the_same():
    seeds = seeds_of(5)
    half, most = (random_masking(seeds, 64, ratio) for ratio in (0.5, 0.75))
    assert torch.equal(most.ids_keep, half.ids_keep[:, :16])


def test_every_patch_is_hidden_equally_often():
    count, patches, ratio = 8000, 49, 37 / 49
    masks = binary_mask(random_masking(seeds_of(count), patches, ratio)).double()
    # Hidden counts are hypergeometric over the patches: their sum of squares is chi-square.
    deviation = masks.mean(dim=0) - ratio
    chi_square = (deviation**2).sum() * count * (patches - 1) / (patches * ratio * (1 - ratio))
    assert 48 - 5 * 9.8 < chi_square < 48 + 5 * 9.8  # 48 degrees of freedom: 48 ± 9.8


def test_patches_are_hidden_independently_of_their_neighbours():
    count, patches = 8000, 49
    masks = binary_mask(random_masking(seeds_of(count), patches, 37 / 49))
    correlation = torch.corrcoef(masks.T)
    off_diagonal = correlation[~torch.eye(patches, dtype=torch.bool)]
    expected = -1 / (patches - 1)  # drawing without replacement
    assert (off_diagonal - expected).abs().max() < 5 / count**0.5


@pytest.mark.parametrize(("count", "parts"), [(16, 2), (17, 3), (5, 5)])
def test_partition_hides_every_patch_once(count, parts):
    seeds = torch.arange(4)
    found = random_partition(seeds, count, parts)
    assert len(found) == parts
    hidden = torch.cat([split.ids_masked for split in found], dim=1)
    assert torch.equal(hidden.sort(dim=1).values, torch.arange(count).expand(4, -1))
    for split in found:
        both = torch.cat([split.ids_keep, split.ids_masked], dim=1).sort(dim=1).values
        assert torch.equal(both, torch.arange(count).expand(4, -1))
    assert not torch.equal(hidden[0], hidden[1])  # another order for another seed
