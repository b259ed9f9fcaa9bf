"""Check of an epoch on many ranks, and the shards counted for each."""

import numpy as np
import pytest

from benchmarks.order_at_scale import Uniform, Use, check_epoch, main
from mae.base.errors import RunFailed
from mae.data.batch import BatchSharding
from mae.data.order import Order, Place

COUNTS = Uniform(1001, 20).dataset_counts()[0]


@pytest.mark.parametrize("mode", ["global", "window", "lanes"])
@pytest.mark.parametrize("epoch", [0, 3])
def test_the_shards_of_each_rank_are_those_of_its_samples(mode, epoch):
    order = Order(0, [COUNTS], mode=mode, window=2, lanes=4, batch_size=8)
    use = check_epoch(order, COUNTS, 4, epoch)
    positions = np.arange((epoch + 2) * 1016).reshape(-1, 4, 2)
    place = order(positions.ravel())
    shard = np.searchsorted(np.cumsum(COUNTS), place.sample, "right").reshape(positions.shape)
    of_epoch = place.view.reshape(positions.shape) == epoch
    for rank in range(4):
        own = set(shard[:, rank][of_epoch[:, rank]].tolist())
        assert use.touched()[rank] == len(own)
        assert own == set(np.flatnonzero(use.last[rank] >= 0).tolist())
    assert use.of(1).touched().tolist() == [20]


def test_shards_at_once():
    # Three shards from step 0 to 4, 2 to 3 and 4 to 5; a second rank with one shard only.
    first = np.array([[0, 2, 4], [9, 1, 9]], np.int32)
    last = np.array([[4, 3, 5], [-1, 1, -1]], np.int32)
    use = Use(first, last)
    assert use.touched().tolist() == [3, 1] and use.at_once().tolist() == [2, 1]
    assert use.of(1).at_once().tolist() == [2]


class Broken(Order):
    """Order that reads one sample twice, and another never."""

    def __call__(self, positions) -> Place:
        place = super().__call__(positions)
        return Place(place.view, np.where(place.sample == 7, 8, place.sample))


def test_a_lost_sample_is_found():
    with pytest.raises(RunFailed, match="2 samples are not read exactly once"):
        check_epoch(Broken(0, [COUNTS], batch_size=8), COUNTS, 4, 0)


def test_a_lost_position_is_found(monkeypatch):
    whole = BatchSharding.micro_batches

    def shorter(*own):
        return (range(one.start, one.stop - 1) for one in whole(*own))

    monkeypatch.setattr(BatchSharding, "micro_batches", shorter)
    with pytest.raises(RunFailed, match="other positions"):
        check_epoch(Order(0, [COUNTS], batch_size=8), COUNTS, 4, 0)


def test_the_command(capsys):
    assert main(["--samples", "2048", "--shards", "64", "--ranks", "16"]) == 0
    out = capsys.readouterr().out
    assert out.count("each exactly once") == 6
    assert "   16 ranks: a rank reads 4 shards, a node of 8 32" in out
