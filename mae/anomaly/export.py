"""Export of a detector as one program: integer images of any size → score, label and map.

The program holds the whole way: resizing, features, scorer, mean of the largest patches, threshold.
Before its folder exists, a fresh process computes the scores and labels of real calibration images
with it, those next to the threshold among them; they must be the detector's own.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mae.anomaly.detector import MAIN, Member, Stored
from mae.anomaly.export_card import ONNX_CODE, PROGRAM_CODE, card, code_of, metadata
from mae.anomaly.pixel_maps import image_map
from mae.anomaly.program import DetectorProgram
from mae.anomaly.program_check import (
    GRAPH,
    IMAGE,
    MAPS,
    OUTPUTS,
    PROGRAM,
    load_onnx,
    load_program,
)
from mae.anomaly.reconstruction import ReconstructionError
from mae.anomaly.threshold import MARGIN, Threshold
from mae.base.errors import SampleError, UserError
from mae.base.files import new_folder
from mae.base.redaction import shown
from mae.data.images import Images
from mae.export.contract import ExportFiles, Loader
from mae.export.folder import check_export, place
from mae.export.programs import require_onnx, trace_module, write_onnx_program
from mae.export.reading import PHOTOGRAPH

CHECKED = 128
"""maximum number of calibration images next to the threshold that are checked, and of others"""
PIXELS = 2**26
"""maximum number of values of all images that are checked"""
SCORES, MAP = 1e-5, 1e-4
"""maximum differences relative to the root mean square"""


class Exported(NamedTuple):
    """Summary of an export that has been written and checked."""

    code: str
    """Python code that loads it"""
    checked: int
    """number of calibration images"""
    near: int
    """number of these next to the threshold"""
    error: float
    """maximum difference of a score, relative to the scores' root mean square"""
    reader: str


class CheckImages(NamedTuple):
    """Calibration images that an export is checked on."""

    images: list[Tensor]
    """as decoded, [c h w]"""
    scores: Tensor
    """the detector's own, float64 [n]"""
    near: int
    """number of images next to the threshold"""


def export_detector(
    folder: Path,
    stored: Stored,
    member: Member,
    calibration: Images,
    out: Path,
    format_: str,
) -> Exported:
    """Write the detector in `folder` as the new folder `out`, in the format onnx or torch.

    Raises UserError where `out` is there, the calibration images are others than the detector's, or
    packages are missing; RunFailed where the program computes other scores or labels.
    """
    form = FORMATS[format_]
    form.require()
    chosen = check_images(stored, calibration)
    threshold = Threshold(**stored.settings["threshold"])
    facts = metadata(folder, stored, member, threshold)
    code = code_of(form.code, facts)
    with new_folder(out) as part:
        program = DetectorProgram(member, threshold.value)
        traced = trace_module(program, chosen.images[0][None], any_size=True)
        form.write(part / form.file, traced, facts)
        written = ExportFiles(
            inputs={f"{IMAGE}{i:03}": one[None] for i, one in enumerate(chosen.images)},
            expected=_expected(member, chosen, threshold),
            tolerance=SCORES,
            tolerances={"map": MAP},
            reader=form.reader,
            files="",
            code=code,
            loader=form.loader,
            library="",
        )
        done = Exported(
            code=place(code, {"FOLDER": str(out)}),
            checked=len(chosen.images),
            near=chosen.near,
            error=check_export(part, written, out, chosen.images[0]),
            reader=form.reader,
        )
        text = card(facts, form.file, place(code, {"FOLDER": out.name}), done._asdict())
        (part / "README.md").write_text(shown(text), encoding="utf-8")
    return done


def refuse_untraceable(stored: Stored, member: Member) -> None:
    """Raise UserError for detectors that one graph of images alone cannot compute."""
    if stored.settings.get("reference"):
        raise UserError(
            "mae anomaly export: a program takes images alone, and this detector compares them "
            "with references: fit one without --reference"
        )
    if member.scorer == ReconstructionError.name:
        raise UserError(
            "mae anomaly export: --scorer reconstruction hides parts of images at random places, "
            "which a graph does not hold: fit another scorer"
        )
    if not member.features.rule.is_fixed:
        raise UserError(
            "mae anomaly export: with --tile-size the number of tiles depends on the image, and a "
            "graph's does not: fit with --tiles"
        )


def check_images(stored: Stored, calibration: Images) -> CheckImages:
    """Calibration images next to the threshold, and others evenly spread, with their scores.

    Raises UserError where they are not those of the detector.
    """
    if not calibration.manifest.is_recorded_as(stored.settings["calibration"]):
        raise UserError(
            "--calibration: other images than those of the detector: give the same shards as to "
            "mae anomaly fit"
        )
    scores = stored.calibration[MAIN]
    numbers = _usable(calibration, len(scores))
    value = stored.settings["threshold"]["value"]
    near = (scores - value).abs().argsort(stable=True)[:CHECKED].tolist()
    spread = torch.linspace(0, len(scores) - 1, min(CHECKED, len(scores))).round().int().tolist()
    if float((scores - value).abs().min()) < MARGIN / 2 * abs(value):
        raise UserError(
            "mae anomaly export: a calibration score is within rounding of the threshold, so that "
            "a program may label its image otherwise: fit the detector again"
        )
    images, rows, total = [], [], 0
    for row in dict.fromkeys([*near, *spread]):
        image = calibration[numbers[row]]
        total += image.numel()
        if images and total > PIXELS:
            break
        images.append(image)
        rows.append(row)
    return CheckImages(images, scores[rows], min(len(near), len(rows)))


def _usable(images: Images, scored: int) -> Sequence[int]:
    """Numbers of the images with a score: all, unless some were left out as bad."""
    numbers = range(len(images.manifest))
    if scored == len(numbers):
        return numbers
    found = []
    for number in numbers:
        try:
            images[number]
        except SampleError:
            continue
        found.append(number)
    if len(found) != scored:
        raise UserError(
            f"--calibration: {len(found):,} images are readable, {scored:,} were when the detector "
            "was fitted: restore the shards, or fit again"
        )
    return found


def _expected(member: Member, chosen: CheckImages, threshold: Threshold) -> dict[str, Tensor]:
    """The detector's scores and labels, its maps of the first images; see `detections`."""
    maps = []
    for image in chosen.images[:MAPS]:
        rule = member.features.rule
        found = member.maps(rule.view(image)[None])[0]
        size = image.shape[1], image.shape[2]
        maps.append(image_map(found, rule, rule.view_size, size).flatten())
    scores = torch.cat([chosen.scores, chosen.scores[:1]])
    return {
        "score": scores,
        "is_anomalous": (scores > threshold.value).float(),
        "map": torch.cat([*maps, maps[0]]),
        PHOTOGRAPH: chosen.images[0][None],
    }


def _write_onnx(path: Path, program: ExportedProgram, facts: Mapping[str, Any]) -> None:
    write_onnx_program(
        path, program, inputs="images", outputs=OUTPUTS, metadata=facts, any_size=True
    )


def _write_program(path: Path, program: ExportedProgram, facts: Mapping[str, Any]) -> None:
    extra = {f"{name}.json": json.dumps(value) for name, value in facts.items()}
    torch.export.save(program, path, extra_files=extra)


class Format(NamedTuple):
    """File format of programs."""

    file: str
    reader: str
    """name of the library that loads it"""
    code: str
    """template of the Python code that loads it"""
    loader: Loader
    write: Callable[[Path, ExportedProgram, Mapping[str, Any]], None]
    """writes a traced program with its metadata"""
    require: Callable[[], None] = lambda: None
    """raises UserError where packages are missing"""


FORMATS = {
    "onnx": Format(GRAPH, "onnxruntime", ONNX_CODE, load_onnx, _write_onnx, require_onnx),
    "torch": Format(PROGRAM, "torch.export", PROGRAM_CODE, load_program, _write_program),
}
"""formats by the name that the user gives"""
