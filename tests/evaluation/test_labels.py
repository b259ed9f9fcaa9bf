import numpy as np
import pytest

from mae.base.errors import UserError
from mae.evaluation.labels import DatasetLabels, check_labels


def test_test_labels_are_matched_by_name():
    train = labelled(0, 1, 2)._replace(class_names=("a", "b", "c"))
    test = labelled(0, 1)
    assert check_labels(train, test).test.tolist() == [0, 1]
    numbers = check_labels(train, test._replace(class_names=("a", "c")))
    assert numbers.test.tolist() == [0, 2]
    with pytest.raises(UserError, match="--test: 1 class is not in --train: dog"):
        check_labels(train, test._replace(class_names=("a", "dog")))
    with pytest.raises(UserError, match=r"--test: class 2 \(c\) does not occur in --train"):
        check_labels(labelled(0, 1)._replace(class_names=("a", "b", "c")), labelled(2))


def labelled(*labels) -> DatasetLabels:
    return DatasetLabels(np.array(labels), lambda row: f"a.tar: key {row}")


def test_labels_that_fit_are_numbered_without_gaps():
    check_labels(labelled(0, 1, 2), labelled(1, 1))
    check_labels(labelled(0, 1, 2), labelled(1, 1), classes=3)
    numbers = check_labels(labelled(7, 100, 7, 3), labelled(100, 3))
    assert numbers.count == 3
    assert numbers.train.tolist() == [1, 2, 1, 0] and numbers.test.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        (
            (0, -1, 1),
            (0,),
            None,
            r"--train: 1 of 3 samples have no label \(.cls\), first a.tar: key 1",
        ),
        ((0, 1), (0, 0, -1), None, "--test: 1 of 3 samples have no label .* key 2"),
        ((0, 1, 4), (0,), 3, r"--train: class 4 is not one of --classes 3 \(0 to 2\), .* key 2"),
        ((0, 1), (2,), 2, "--test: class 2 is not one of --classes 2 .* key 0"),
        (range(5, 15), (5,), 10, "--train: class 10 is not one of --classes 10"),
        ((0, 2), (0,), 3, "--train: 2 classes, not --classes 3: none is of 1"),
        ((4, 4), (4,), None, "--train: all samples are of class 4"),
        ((0, 1), (0, 5), None, "--test: class 5 does not occur in --train"),
    ],
)
def test_labels_that_do_not_fit_are_named(train, test, classes, message):
    with pytest.raises(UserError, match=message):
        check_labels(labelled(*train), labelled(*test), classes)
