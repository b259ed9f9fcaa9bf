"""Rate and distortion of a model's codes beside other codecs, on the same images."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from mae.base.errors import SampleError
from mae.compression.coding import TOGETHER, Coder, PictureCodes
from mae.compression.compress import Row, refuse_bad
from mae.compression.container import Container, Header
from mae.compression.other_codecs import Measured, Other
from mae.compression.results import Values, stored_pixels
from mae.compression.sources import Picture, Source
from mae.config.sections import DataConfig
from mae.evaluation.image_quality import WINDOW, ssim

MOST_COMPARED = 256
"""maximum number of images"""
MOST_PIXELS = 1 << 24
"""number of pixels after which no further image is taken"""


class Point(NamedTuple):
    """A setting of a codec: mean over the images."""

    setting: str
    bits_per_pixel: float
    """of the payloads, without headers"""
    whole_bits_per_pixel: float
    """of whole files"""
    psnr: float
    """mean of the images' PSNR in dB"""
    ssim: float
    """NaN: the images are too small"""


class Curve(NamedTuple):
    """Settings of a codec, by rising rate."""

    name: str
    points: Sequence[Point]


class Compared(NamedTuple):
    """Images that are compared, decoded."""

    pictures: Sequence[Picture]
    names: Sequence[str]
    truths: Sequence[Values]
    """pixels [h w c] in the images' own channels and bits"""
    skipped: Sequence[Row]
    """image and error"""

    @property
    def pixels(self) -> int:
        """Rows times columns of all images."""
        return sum(one.kind.pixels for one in self.pictures)


def compared_images(
    source: Source, data: DataConfig, codes: PictureCodes, max_bad: int
) -> Compared:
    """Images evenly spread over `source`, without those that `codes` could not be made of.

    Raises UserError for more than `max_bad` of these, or where no other is left.
    """
    count = min(MOST_COMPARED, len(source))
    pictures: list[Picture] = []
    names: list[str] = []
    skipped: list[Row] = []
    pixels = 0
    for number in np.linspace(0, len(source) - 1, count).round().astype(int).tolist():
        try:
            found = codes.read(source, number, data)
        except SampleError as error:
            skipped.append({"image": source.name(number), "error": str(error)})
            continue
        pixels += found.kind.pixels
        if pictures and pixels > MOST_PIXELS:
            break
        pictures.append(found)
        names.append(source.name(number))
    refuse_bad(skipped, len(pictures), max_bad)
    return Compared(pictures, names, [original(one) for one in pictures], skipped)


def original(picture: Picture) -> Values:
    """Pixels [h w c] of an image's file, alpha left out."""
    pixels, kind = picture
    values = pixels[: kind.colours].permute(1, 2, 0).numpy()
    if kind.bits < 8 * values.dtype.itemsize:
        values = (values // 257).astype(np.uint8)
    return np.ascontiguousarray(values)


class Quality(NamedTuple):
    """PSNR in dB, at most 100, and SSIM of an image."""

    psnr: float
    ssim: float
    """NaN: the image is smaller than the window"""


def quality(made: Values, truth: Values) -> Quality:
    """Quality of an image [h w c] beside its original."""
    white = np.iinfo(truth.dtype).max
    pair = [torch.from_numpy(one.astype(np.float64) / white).movedim(2, 0) for one in (made, truth)]
    error = (pair[0] - pair[1]).square().mean().item()
    psnr = -10 * math.log10(max(error, 1e-10))
    fits = min(truth.shape[:2]) >= WINDOW
    similar = ssim(pair[0][None].float(), pair[1][None].float()).item() if fits else math.nan
    return Quality(psnr, similar)


def point(setting: str, results: Iterator[Measured], images: Compared) -> Point:
    """Mean over the images, whose results come in their order."""
    payload = whole = psnr = similar = 0.0
    for result, truth in zip(results, images.truths, strict=True):
        found = quality(result.pixels, truth)
        payload, whole = payload + result.payload, whole + result.whole
        psnr, similar = psnr + found.psnr, similar + found.ssim
    count, pixels = len(images.truths), images.pixels
    return Point(setting, 8 * payload / pixels, 8 * whole / pixels, psnr / count, similar / count)


def measure_others(
    others: Sequence[Other],
    images: Compared,
    show: Callable[[int, int], None],
) -> list[Curve]:
    """Curves of other codecs, by rising rate; those that do not hold such images are left out."""
    used = [other for other in others if all(map(other.holds, images.truths))]
    total, done, found = sum(len(other.settings) for other in used), 0, []
    count = len(images.truths)
    for other in used:
        points = []
        for setting in other.settings:
            results = (other.measure(truth, setting) for truth in images.truths)
            points.append(point(other.words(setting), results, images))
            done += 1
            show(done * count, total * count)
        found.append(Curve(other.name, sorted(points, key=lambda one: one.bits_per_pixel)))
    return found


class Own(NamedTuple):
    """Result of the model: one point for each way of coding the same codes, and its pictures."""

    curves: Sequence[Curve]
    pictures: Sequence[Values]


def measure_own(
    coders: dict[str, tuple[Coder, Header]],
    raw_bits: float,
    images: Compared,
) -> Own:
    """Points of the model: codes by each of `coders`, in files of all images.

    `raw_bits`: of a code without entropy coding.
    """
    pictures, kinds = images.pictures, [one.kind for one in images.pictures]
    starts = range(0, len(pictures), TOGETHER)
    first = next(iter(coders.values()))[0]
    made: list[Values] = []
    codes = 0
    for start in starts:
        own = slice(start, start + TOGETHER)
        coded = list(first.images.codes(pictures[own]))
        codes += sum(one.size for one, _ in coded)
        decoded = first.images.pictures(coded, kinds[own], "codes")
        made += [stored_pixels(one, kind) for one, kind in zip(decoded, kinds[own], strict=True)]
    pairs = zip(made, images.truths, strict=True)
    found = [quality(one, truth) for one, truth in pairs]
    psnr, similar = (sum(column) / len(found) for column in zip(*found, strict=True))
    curves = []
    for name, (coder, header) in coders.items():
        blocks = [coder.block(pictures[s : s + TOGETHER])[0] for s in starts]
        entries = [one.entry for one in blocks]
        content = Container(header, kinds, [str(number) for number in range(len(kinds))], entries)
        rates = (8 * content.payload / images.pixels, 8 * content.size / images.pixels)
        curves.append(Curve(name, [Point("", *rates, psnr, similar)]))
    rate = raw_bits * codes / images.pixels
    curves.append(Curve("no entropy coding", [Point("", rate, rate, psnr, similar)]))
    return Own(curves, made)


def at_rate(curve: Curve, rate: float, figure: str) -> float | None:
    """Figure of a curve at a rate, between its points on a logarithmic axis; None: beyond them."""
    points = curve.points
    rates = [one.bits_per_pixel for one in points]
    if not rates[0] <= rate <= rates[-1]:
        return None
    logs = np.log(rates)
    return float(np.interp(math.log(rate), logs, [getattr(one, figure) for one in points]))


def verdict(own: Curve, others: Sequence[Curve]) -> list[str]:
    """Comparison at the model's rate in words, a line for each other codec."""
    mine = own.points[0]
    lines = []
    for curve in others:
        theirs = at_rate(curve, mine.bits_per_pixel, "psnr")
        if theirs is not None:
            gain = mine.psnr - theirs
            word = "wins against" if gain > 0 else "loses to"
            lines.append(f"{word} {curve.name} by {abs(gain):.2f} dB: {theirs:.2f} dB at this rate")
        elif mine.bits_per_pixel < curve.points[0].bits_per_pixel:
            least = curve.points[0]
            word = "wins against" if mine.psnr > least.psnr else "needs less than"
            lines.append(
                f"{word} {curve.name}, whose smallest files have {least.bits_per_pixel:.3f} bits "
                f"per pixel and {least.psnr:.2f} dB"
            )
        else:
            best = curve.points[-1]
            word = "wins against" if mine.psnr > best.psnr else "loses to"
            lines.append(
                f"{word} {curve.name}, whose largest files measured here have "
                f"{best.bits_per_pixel:.3f} bits per pixel and {best.psnr:.2f} dB"
            )
    return lines


def examples(
    own: Own, others: Sequence[Other], images: Compared, curves: Sequence[Curve], count: int
) -> dict[str, list[Values]]:
    """The first images of one size by each codec, at the setting next to the model's rate.

    Name of a codec, with its rate → pixels [h w c].
    """
    rate = own.curves[0].points[0].bits_per_pixel
    named = {curve.name: curve for curve in curves}
    shape = images.truths[0].shape
    numbers = [n for n, truth in enumerate(images.truths) if truth.shape == shape][:count]
    truths = [images.truths[n] for n in numbers]
    found = {"original": truths, f"this run {rate:.2f}": [own.pictures[n] for n in numbers]}
    for other in others:
        if other.name in named:
            points = named[other.name].points
            nearest = min(points, key=lambda one: abs(math.log(one.bits_per_pixel / rate)))
            setting = next(one for one in other.settings if other.words(one) == nearest.setting)
            made = [other.measure(truth, setting).pixels for truth in truths]
            found[f"{other.name} {nearest.bits_per_pixel:.2f}"] = made
    return found
