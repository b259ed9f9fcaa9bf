"""Images that an evaluation does without: named, counted, and few."""

from collections.abc import Callable, Sequence

from mae.base.errors import UserError
from mae.data.images import BadSample, Images


class LeftOut:
    """The bad images of a data set, as they are met."""

    def __init__(self, images: Images, max_bad: int) -> None:
        self.total, self.max_bad = len(images.manifest), max_bad
        self.reasons: list[str] = []
        """shard, key and what is wrong"""

    def add(self, bad: Sequence[BadSample]) -> None:
        """UserError where there are more than data.max_bad by now, or no other image is left."""
        self.reasons += [one.reason for one in bad]
        if len(self.reasons) > self.max_bad:
            raise UserError(
                f"{self.reasons[0]} (one of {len(self.reasons)} bad images so far, more than "
                f"data.max_bad = {self.max_bad})"
            )
        if len(self.reasons) == self.total:
            raise UserError(f"{self.reasons[0]} (none of {self.total} images is readable)")

    def tell(self, say: Callable[[str], None]) -> None:
        """A line for each."""
        for reason in self.reasons:
            say(f"left out: {reason}")
