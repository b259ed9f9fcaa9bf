"""Card of an exported detector: metadata, Python code that loads it, Markdown."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae.anomaly.detector import PARAMETERS, SETTINGS, Member, Stored
from mae.anomaly.program import CLASS_NAMES
from mae.anomaly.threshold import Threshold
from mae.export.reading import pixels_code

PREPROCESSING = """\
none but decoding: the program takes the whole decoded image, {kind} [batch, {channels}, height, \
width], of any size ({order}; EXIF orientation is not applied), and resizes it to {size[0]} x \
{size[1]} itself, bicubic with antialiasing; an image more than 16 times as long as wide is cut \
to its middle"""

CARD = """\
# Detector of anomalous images

`{file}` takes `images`, {kind} [batch, {channels}, height, width], of one size per call, and gives
for each image

- `score`, float64: the larger, the less normal;
- `is_anomalous`: the score is above {threshold:.9g}. Of normal images like the \
{calibration_images:,} of
  the calibration, {alpha:.2%} at most are on average;
- `map`, float32 [batch, height, width]: score of each pixel, comparable between images.

{features}, scorer `{scorer}`. Preprocessing: {preprocessing}.

```python
{code}```

Checked before it was written: with {reader}, a fresh process computed the scores and labels of
{checked} calibration images, {near} of them next to the threshold. All labels were the detector's;
scores differed by {error:.0e} at most. Another computer may label an image differently only where
its score is as close to the threshold as that. No calibration score is within 2e-5 of it, relative
to its value.
"""

ONNX_CODE = """\
import numpy as np
import onnxruntime
{imports}
session = onnxruntime.InferenceSession("FOLDER/detector.onnx")
pixels = np.atleast_3d({opened})
images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
score, is_anomalous, map = session.run(None, {{"images": images}})
"""
PROGRAM_CODE = """\
import numpy as np
import torch
{imports}
detector = torch.export.load("FOLDER/detector.pt2").module()
pixels = np.atleast_3d({opened})
images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
score, is_anomalous, map = detector(images)
"""


def metadata(folder: Path, stored: Stored, member: Member, threshold: Threshold) -> dict[str, Any]:
    """Metadata of a program: classes, threshold, features, preprocessing; values become JSON."""
    settings = stored.settings
    facts = {
        "class_names": list(CLASS_NAMES),
        "threshold": threshold.value,
        "alpha": threshold.alpha,
        "calibration_images": threshold.calibration,
        "features": member.features.name,
        "scorer": member.scorer,
        "channels": settings["channels"],
        "bits": settings["bits"],
        "size": list(member.features.rule.view_size),
        "detector_sha256": checksum(folder),
    }
    order = {1: "gray", 3: "red, green, blue"}.get(settings["channels"], "channels as in fitting")
    preprocessing = PREPROCESSING.format(**facts, kind=_kind(facts), order=order)
    return facts | {"preprocessing": preprocessing}


def checksum(folder: Path) -> str:
    """SHA-256 over all files of a detector that determine its scores."""
    digest = hashlib.sha256()
    for name in (SETTINGS, PARAMETERS):
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


def code_of(code: str, facts: Mapping[str, Any]) -> str:
    """Python code (ONNX_CODE, PROGRAM_CODE) that reads an image of the detector's kind."""
    opened = pixels_code(facts["channels"], facts["bits"])
    return code.format(imports=opened.imports, opened=opened.expression)


def card(facts: Mapping[str, Any], file: str, code: str, checked: Mapping[str, Any]) -> str:
    """Markdown on the program in `file`, which `code` loads; `checked`: facts of its check."""
    values = {**facts, **checked, "file": file, "kind": _kind(facts), "code": code}
    return CARD.format_map(values)


def _kind(facts: Mapping[str, Any]) -> str:
    return f"uint{facts['bits']}"
