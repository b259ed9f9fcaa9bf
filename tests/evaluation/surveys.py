"""Surveys of masks in tests, by one process."""

import tempfile
from pathlib import Path

from mae.base.divided_work import divided_work
from mae.base.portion import ALONE
from mae.data.images import Images
from mae.evaluation.mask_classes import MaskClasses, MaskOptions, mask_classes
from mae.evaluation.mask_survey import Survey
from mae.evaluation.segmentation_masks import Masks, survey_masks


def survey_of(images: Images, masks: Masks) -> Survey:
    """Survey of all masks."""
    survey = Survey()
    with (
        tempfile.TemporaryDirectory() as folder,
        divided_work(Path(folder) / "out", "", ALONE, lambda text: None) as work,
    ):
        survey_masks(work, images, masks, survey)
    return survey


def classes_of(images: Images, masks: Masks) -> MaskClasses:
    """Meaning of the masks."""
    return mask_classes(survey_of(images, masks), MaskOptions())
