"""`python -m tests.small_batches PROGRAM …`: a module with small batches, so tiny data have parts.

For commands that have no option for that.
"""

import runpy
import sys
from collections.abc import Callable

from mae.commands import measured_images
from mae.evaluation import predictions, segmentation, segmentation_masks, usable_samples
from mae.objectives.linear_probe import report as linear_probe
from mae.similarity import embedding, signatures
from mae.sparse_features import survey

SIZE = 4
MODULES = (
    measured_images,
    predictions,
    segmentation,
    segmentation_masks,
    usable_samples,
    linear_probe,
    survey,
)
"""modules with a BATCH of their own"""
OTHERS = (
    (embedding, "PICTURES"),
    (embedding, "QUERIES"),
    (signatures, "BATCH"),
)
"""sizes of other names"""
TOGETHER = (embedding, signatures)
"""modules whose parts hold several batches"""


def shrink(set_attribute: Callable[[object, str, int], None] = setattr) -> None:
    """Set the size of the batches in this process."""
    for module in MODULES:
        set_attribute(module, "BATCH", SIZE)
    for module, name in OTHERS:
        set_attribute(module, name, SIZE)
    for module in TOGETHER:
        set_attribute(module, "TOGETHER", 1)


def main(argv: list[str]) -> None:
    """Run the module."""
    shrink()
    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
