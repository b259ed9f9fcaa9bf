"""Anomaly detection on CIFAR-10: memory by the number of images, and counted false alarms.

python -m benchmarks.anomaly memory --train 'cifar10/train-*.tar' --count 2000
python -m benchmarks.anomaly rates --train 'cifar10/train-*.tar' --test 'cifar10/test-*.tar'

Features are raw pixels at 32 x 32, the images' own size, with the scorers gaussian, pca and knn.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.anomaly.detector import MAIN, Member, read_detector
from mae.anomaly.fitting import FitRequest, fit_detector, scores_of
from mae.anomaly.patch_features import pixel_features
from mae.anomaly.threshold import Threshold, conformal_threshold
from mae.base.divided_work import divided_work
from mae.base.portion import ALONE
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.joined_manifests import select
from mae.evaluation.confidence import auroc

SIZE = (32, 32)
ALPHA = 0.01
OTHERS = 9
"""one of so many images of other classes is scored"""
SCORERS = ("gaussian", "pca", "knn")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a measurement."""
    parser = argparse.ArgumentParser(prog="benchmarks.anomaly", description=__doc__)
    parser.add_argument("measurement", choices=("memory", "rates"))
    parser.add_argument("--train", nargs="+", required=True, help="shards of CIFAR-10's training")
    parser.add_argument("--test", nargs="+", help="shards of its test, for rates")
    parser.add_argument("--count", type=int, default=2000, help="images, for memory")
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 8], help="normal, for rates")
    args = parser.parse_args(argv)
    (memory if args.measurement == "memory" else rates)(args)
    return 0


def memory(args: argparse.Namespace) -> None:
    """Peak memory of a fit and its calibration, in a process of its own."""
    images = _images(args.train)
    half = args.count // 2
    normal, calibration = (_only(images, np.arange(start, start + half)) for start in (0, half))
    before = _peak()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        _fit(Path(scratch) / "detector", normal, calibration)
    seconds = time.process_time() - start
    print(
        f"{args.count:,} images: peak {_peak():,.0f} MiB ({before:,.0f} before the fit), "
        f"{seconds:.0f} CPU seconds"
    )


def rates(args: argparse.Namespace) -> None:
    """False alarms at ALPHA among normal test images, with their exact 99 % range."""
    train, test = _images(args.train), _images(args.test)
    inside = total = 0
    for normal in args.classes:
        numbers = np.flatnonzero(np.asarray(train.manifest.label) == normal)
        half = len(numbers) // 2
        fitted, calibration = _only(train, numbers[:half]), _only(train, numbers[half:])
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "detector"
            known = _fit(folder, fitted, calibration)
            labels = np.asarray(test.manifest.label)
            chosen = (labels == normal) | (np.arange(len(labels)) % OTHERS == 0)
            part = _only(test, np.flatnonzero(chosen))
            found, labels = _scores(Path(scratch) / "scores", part, known.members), labels[chosen]
        for name, scorer in zip(known.members, SCORERS, strict=True):
            threshold: Threshold = conformal_threshold(known.calibration[name], ALPHA)
            of_normal, others = found[name][labels == normal], found[name][labels != normal]
            alarms = int((of_normal > threshold.value).sum())
            low, high = threshold.alarm_range(len(of_normal))
            total += 1
            inside += low <= alarms <= high
            counted = f"{threshold.calibration:,} calibration images, rank {threshold.rank:,}"
            print(
                f"class {normal}, {scorer}: {alarms} of {len(of_normal):,} false alarms, 99 % "
                f"range {low:.0f} to {high:.0f} ({counted}); "
                f"AUROC {auroc(others, of_normal):.3f}"
            )
    print(f"{inside} of {total} within their 99 % range")


class Known(NamedTuple):
    """A fitted detector."""

    members: dict[str, Member]
    calibration: dict[str, npt.NDArray[np.float64]]


def _images(patterns: list[str]) -> Images:
    return Images(build_manifest(patterns, "--train", None, None), 3, 8)


def _only(images: Images, numbers: npt.NDArray[np.int64]) -> Images:
    return images.of(select(images.manifest, numbers))


def _fit(out: Path, normal: Images, calibration: Images) -> Known:
    features = pixel_features(SIZE)
    names = (MAIN, "pixels, pca", "pixels, knn")
    members = {name: (features, scorer) for name, scorer in zip(names, SCORERS, strict=True)}
    settings: dict[str, Any] = {"channels": 3, "bits": 8, "layers": None, "source": "pixels"}
    request = FitRequest(members, normal, calibration, ALPHA, 0, 0, settings, log=lambda text: None)
    fitted = fit_detector(out, request)
    assert fitted is not None
    stored = read_detector(out)
    return Known(
        {
            name: Member(features, scorer, stored.parameters[name])
            for name, (_, scorer) in members.items()
        },
        fitted.calibration.scores,
    )


def _scores(out: Path, images: Images, members: dict[str, Member]) -> dict[str, Any]:
    with divided_work(out, "benchmark", ALONE, print) as work:
        return scores_of(
            work, "scores", images, members, device="cpu", workers=0, log=lambda text: None
        ).scores


def _peak() -> float:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
