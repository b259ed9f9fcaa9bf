import pytest

from mae.config.sections import DataConfig
from mae.training.safety.monitor import MIN_SECONDS, DataWaitHint, data_wait_remedies
from mae.training.tracking.tracker import Clock


class Interval(Clock):
    """One that took `seconds`, a share of them waiting."""

    def __init__(self, seconds: float, share: float) -> None:
        super().__init__()
        self.seconds, self.waited = seconds, share * seconds

    @property
    def elapsed(self) -> float:
        return self.seconds


@pytest.fixture
def hint():
    ways = data_wait_remedies(DataConfig(workers=2), processes=2, cores=8, has_gpu=True)
    return DataWaitHint(", ".join(ways))


def test_it_is_said_once_and_only_when_sure(hint):
    assert hint(Interval(10 * MIN_SECONDS, 1.0)) is None  # workers start
    assert hint(Interval(0.6 * MIN_SECONDS, 0.5)) is None
    said = hint(Interval(0.6 * MIN_SECONDS, 0.5))
    assert said.startswith("data    waited for 50% of the time (2.0 times as fast without).")
    assert "data.workers=4 (there are 8 cores), data.crop_on_device=true, data.decode" in said
    assert hint(Interval(10 * MIN_SECONDS, 0.5)) is None


def test_a_run_that_is_fed_hears_nothing(hint):
    for _ in range(5):
        assert hint(Interval(MIN_SECONDS, 0.05)) is None


@pytest.mark.parametrize(
    ("settings", "cores", "has_gpu", "ways"),
    [
        (
            {"workers": 4},
            8,
            True,
            [
                "data.crop_on_device=true",
                "data.decode_on_device=true (for JPEGs)",
                "mae pack --resize",
                "data.repeats=2",
            ],
        ),
        ({"workers": 4, "decode_on_device": True, "repeats": 2}, 8, True, ["mae pack --resize"]),
        (
            {"workers": 0, "repeats": 4},
            2,
            False,
            ["data.workers=1 (there are 2 cores)", "mae pack --resize"],
        ),
    ],
)
def test_only_what_would_help_is_named(settings, cores, has_gpu, ways):
    assert list(data_wait_remedies(DataConfig(**settings), 2, cores, has_gpu)) == ways


def test_fine_tuning_has_fewer_ways():
    ways = data_wait_remedies(DataConfig(workers=4), 1, 8, has_gpu=True, has_labels=True)
    assert list(ways) == ["data.workers=8 (there are 8 cores)", "mae pack --resize"]


def test_what_would_be_refused_is_not_named():
    for data, channels in ((DataConfig(), 4), (DataConfig(bits=16), 3)):
        ways = data_wait_remedies(data, 1, 1, has_gpu=True, channels=channels)
        assert not [way for way in ways if "decode_on_device" in way]
