"""Classes of normal images: by name, not by number."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mae.base.errors import UserError
from mae.data.labels import NO_LABEL
from mae.data.normal_classes import CLASS_0, normal_classes


def manifest(names, labels) -> Any:
    """What is read of the manifest of images with these labels."""
    return SimpleNamespace(label=np.array(labels), class_names=names)


@pytest.mark.parametrize(
    ("names", "chosen", "numbers", "words"),
    [
        (("abnormal", "normal"), [], (1,), "of normal; all others"),
        (("Good", "bad", "OK"), [], (0, 2), "of Good, OK; all others"),
        (("cat", "dog"), [], (0,), "of cat, which is class 0, as no class is called good, normal"),
        (("finding", "no finding"), ["No finding"], (1,), "of 'no finding'; all others"),
        ((), [], (0,), "of class 0 (its classes have no names)"),
    ],
)
def test_the_name_decides_and_what_was_taken_is_said(names, chosen, numbers, words):
    found = normal_classes(manifest(names, [0, 1]), chosen, "--test")
    assert found.numbers == numbers and words in found.line()
    assert found.of(np.array([0, 1])).tolist() == [0 in numbers, 1 in numbers]


def test_a_chosen_class_must_be_there_where_there_are_labels():
    with pytest.raises(UserError, match=r"--test: .*'no finding'; its classes are cat, dog"):
        normal_classes(manifest(("cat", "dog"), [0, 1]), ["no finding"], "--test")
    assert normal_classes(manifest((), [NO_LABEL]), ["no finding"], "--normal") == CLASS_0
