"""Shared fixtures of the tests of data."""

import psutil
import pytest


@pytest.fixture
def workers_left():
    """`workers_left()`: child processes of this test, running or zombies.

    Without the resource tracker of multiprocessing, which stays for other tests.
    """
    before = set(psutil.Process().children(recursive=True))

    def left():
        new = set(psutil.Process().children(recursive=True)) - before
        return [child for child in new if "resource_tracker" not in " ".join(child.cmdline())]

    return left
