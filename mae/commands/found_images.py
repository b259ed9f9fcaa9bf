"""Sheet of the images found for some queries: of `mae neighbours` and `mae search`."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mae.data.images import Images
from mae.data.sample_names import sample_name
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.evaluation.nearest import Neighbours
from mae.pictures.neighbours import neighbours_sheet
from mae.pictures.sheet import Sheet


def found_sheet(
    queries: Tensor,
    names: Sequence[str],
    found: Neighbours,
    images: Images,
    samples: npt.NDArray[np.int64],
    *,
    img_size: tuple[int, int],
    crop_pct: float | None,
    title: str,
    feature: str,
    finds_itself: bool = True,
) -> Sheet:
    """Sheet with the `queries` [b c h w], called `names`, and what was `found` for each.

    `samples`: number in `images` of each row that was searched; they are shown as centred views
    of `img_size`.
    """
    views = CentredViews(images, img_size, crop_pct)
    numbers = samples[found.rows].tolist()
    return neighbours_sheet(
        queries,
        names,
        found=found,
        pictures=[stack([views.view(number) for number in near]) for near in numbers],
        captions=[[sample_name(images.manifest, number) for number in near] for near in numbers],
        searched=len(samples),
        title=title,
        feature=feature,
        finds_itself=finds_itself,
    )
