from contextlib import nullcontext

import pytest
import torch

from mae.data.batch import Batch
from mae.data.device_crop import pack_crops, resize_crops
from mae.data.transform import View
from mae.training import prefetcher
from mae.training.prefetcher import MAX_AHEAD, DevicePrefetcher


def batch_of(images) -> Batch:
    seeds, labels = torch.tensor([5, 6]), torch.tensor([0, 1])
    return Batch(images, seeds, torch.tensor([7, 8]), labels, [])


def test_a_batch_arrives_as_it_is():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    found = DevicePrefetcher(torch.device("cpu"))(batch_of(images), (8, 8))
    assert torch.equal(found.images, images)
    assert found.seeds.tolist() == [5, 6] and found.labels.tolist() == [0, 1]


def test_crops_are_cut_on_the_way():
    parts = list(torch.randint(0, 256, (2, 3, 10, 12), dtype=torch.uint8))
    crops = pack_crops(parts, [View(1, 2, 6, 7, True), View(0, 0, 10, 12, False)])
    found = DevicePrefetcher(torch.device("cpu"))(batch_of(crops), (8, 8))
    assert torch.equal(found.images, resize_crops(crops, (8, 8), "cpu"))


class FakeStream:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


class FakeEvent:
    def __init__(self, log, number):
        self.log, self.number = log, number

    def record(self, stream):
        self.log.append(f"event {self.number} on {stream.name}")

    def synchronize(self):
        self.log.append(f"host waits for {self.number}")


@pytest.fixture
def log(monkeypatch):
    """Calls to CUDA streams and events, which are fakes on the CPU."""
    calls = []
    main, events = FakeStream(calls, "main"), iter(range(100))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(calls, "side"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "Event", lambda: FakeEvent(calls, next(events)))
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: calls.append(f"kept by {stream.name}")
    )
    monkeypatch.setattr(
        prefetcher.DevicePrefetcher,
        "_put",
        lambda self, batch, size: prefetcher.DeviceBatch(*[torch.zeros(1)] * 3),
    )
    return calls


def test_on_a_gpu_the_loop_is_only_so_far_ahead(log):
    prefetch = DevicePrefetcher(torch.device("cuda"))
    one = ["main waits for side", *["kept by main"] * 3]
    for number in range(MAX_AHEAD + 2):
        log.clear()
        prefetch(batch_of(torch.zeros(2, 3, 8, 8)), (8, 8))
        waits = [f"host waits for {number - MAX_AHEAD}"] if number >= MAX_AHEAD else []
        assert log == [*waits, *one, f"event {number} on main"]
