"""Disk space."""

import pytest

from mae.base.disk_space import free_bytes, gigabytes, require_room
from mae.base.errors import UserError


def test_room_that_is_not_there_is_refused_with_both_numbers(tmp_path):
    out = tmp_path / "new" / "folder" / "file"
    require_room(out, 1)
    with pytest.raises(
        UserError, match=r"file: needs 1,000,000 GB, but .* GB of the disk are free"
    ):
        require_room(out, 10**15)
    assert 0 < free_bytes(out) < 10**15 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.001 GB"), (12_340_000, "0.012 GB"), (12.34e9, "12 GB"), (386.4e9, "386 GB")],
)
def test_sizes_in_words(count, text):
    assert gigabytes(count) == text
    assert gigabytes(1234.4e9) == "1,234 GB"
