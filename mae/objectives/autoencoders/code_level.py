"""Levels of the codes of an image: one map of codes, or several of different strides."""

from typing import NamedTuple


class CodeLevel(NamedTuple):
    """Level of an image's codes: a map of its own."""

    name: str = ""
    """empty: the only level"""
    stride: int = 1
    """positions of the finest level's map per side of a position of this one"""

    def key(self, figure: str) -> str:
        """Name of a figure of this level."""
        return f"{figure}_{self.name}" if self.name else figure

    @property
    def words(self) -> str:
        """Its codes, for people."""
        return f"{self.name} codes".strip()


ONE_LEVEL = (CodeLevel(),)
