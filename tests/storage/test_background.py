import threading
import time

import pytest

from mae.storage.background import BackgroundThreads


def test_future_holds_result_or_error():
    with BackgroundThreads(2, "test") as background:
        results = [background.submit(divmod, 7, divisor) for divisor in (1, 2, 0)]
        assert [result.result(10) for result in results[:2]] == [(7, 0), (3, 1)]
        with pytest.raises(ZeroDivisionError):
            results[2].result(10)


def test_pool_runs_count_calls_at_a_time_in_order():
    begun, release = [], threading.Event()

    def work(number):
        begun.append(number)
        release.wait(10)

    with BackgroundThreads(2, "test") as background:
        results = [background.submit(work, number) for number in range(4)]
        time.sleep(0.1)
        assert sorted(begun) == [0, 1]
        release.set()
        for result in results:
            result.result(10)
    assert sorted(begun[2:]) == [2, 3]


def test_closed_pool_drops_queued_calls_and_its_threads_end():
    begun, release = [], threading.Event()

    def work(number):
        begun.append(number)
        release.wait(10)

    background = BackgroundThreads(2, "closed")
    for number in range(4):
        background.submit(work, number)
    while len(begun) < 2:
        time.sleep(0.01)
    background.close()
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("closed"):
            thread.join(10)
            assert not thread.is_alive()
    assert sorted(begun) == [0, 1]
