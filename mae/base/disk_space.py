"""Disk space: what is free, what something needs, and sizes in words."""

import shutil
from pathlib import Path

from mae.base.errors import UserError


def free_bytes(place: Path) -> int:
    """Free bytes of the disk that holds `place`, or will hold it."""
    existing = next(p for p in (place, *place.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def require_room(out: Path, needed: int) -> None:
    """Raise UserError, with both numbers, where `needed` bytes are more than the disk has free."""
    free = free_bytes(out.parent)
    if needed > free:
        raise UserError(
            f"{out}: needs {gigabytes(needed)}, but {gigabytes(free)} of the disk are free: make "
            "room, or choose another place"
        )


def gigabytes(count: float) -> str:
    """Bytes in words: `0.001 GB` (at least), `12 GB`, `1,234 GB`."""
    size = max(count / 1e9, 0.001)
    return f"{size:,.0f} GB" if size >= 100 else f"{size:.2g} GB"
