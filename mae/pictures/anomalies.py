"""Page of images with heat maps of their anomaly scores, the largest scores first."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mae.pictures.drawing import css_gradient, displayable, heat_map, to_pil
from mae.pictures.html import Markup, document, join, tag, text, void
from mae.pictures.sheet import data_uri

SIDE = 288
"""longest side of the pictures in pixels"""
SHARE = 0.55
"""share of the heat map in its mixture with the image"""
OUTLINE = torch.tensor([0.2, 1.0, 0.35])
"""colour of the outline of a mask"""

STYLE = """
h1 { font-size: 24px; }
.note { margin: 0 0 5px; font-size: 13.5px; color: var(--soft); max-width: 900px; }
.scale { max-width: 420px; font-size: 13px; margin: 16px 0 0; }
.scale i { display: block; height: 10px; border-radius: 3px; margin: 4px 0 2px; }
.scale div { display: flex; justify-content: space-between; gap: 16px; color: var(--soft);
  font-size: 12.5px; }
.cards { display: grid; gap: 18px; margin-top: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.card { margin: 0; padding: 12px; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; break-inside: avoid; min-width: 0; }
.card.above { border-left: 4px solid var(--bad); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; align-items: start; }
.pair label { cursor: zoom-in; display: block; position: relative; }
.pair input { position: absolute; opacity: 0; }
.pair img { display: block; width: 100%; height: auto; border-radius: 4px; }
.pair .small { image-rendering: pixelated; }
.pair input:focus-visible + img { outline: 2px solid var(--a); outline-offset: 2px; }
.pair input:checked + img { position: fixed; inset: 0; z-index: 9; width: 100vw; height: 100vh;
  object-fit: contain; background: rgb(0 0 0 / .88); border-radius: 0; cursor: zoom-out;
  padding: 16px; }
.card figcaption { margin-top: 8px; font-size: 13px; overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: 0 14px; align-items: baseline; }
.facts b { font-size: 16px; font-weight: 600; }
.above .level { color: var(--bad); } .below .level { color: var(--good); }
.name { color: var(--soft); font-size: 12.5px; }
@media (max-width: 640px) { .cards { gap: 12px; } .card { padding: 10px; } }
@media print { .scale i { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


class Suspect(NamedTuple):
    """An image of the page."""

    name: str
    """file or shard, and key"""
    image: Tensor
    """integers [c h w]"""
    map: Tensor
    """scores of its pixels [h w], of any size"""
    score: float
    p: float
    """conformal p-value"""
    is_anomalous: bool
    """the score is above the threshold"""
    truth: str = ""
    """what it is, where that is known"""
    mask: Tensor | None = None
    """bool [h w], its defects, where they are known"""


def gallery(suspects: Sequence[Suspect], top: float, title: str, notes: Sequence[str]) -> str:
    """HTML page of images beside their heat maps, in the given order.

    `top`: score at the light end of the colours.
    """
    groups = []
    for above, heading in ((True, "Above the threshold"), (False, "Not above the threshold")):
        cards = [_card(one, top) for one in suspects if one.is_anomalous is above]
        if cards:
            count = tag("small", text(f"  {len(cards)} shown"))
            groups += [
                tag("h2", text(heading), count),
                tag("section", *cards, class_="cards", aria_label=heading),
            ]
    ends = join([tag("span", text("0")), tag("span", text(f"{top:.3g} and more"))])
    bar = tag("i", style=f"background:{css_gradient()}")
    body = tag(
        "main",
        tag("h1", text(title)),
        *(tag("p", text(note), class_="note") for note in notes),
        tag("div", text("score of a pixel"), bar, tag("div", ends), class_="scale"),
        *groups,
    )
    return document(title, body, STYLE)


def pictures(one: Suspect, top: float) -> tuple[Image.Image, Image.Image]:
    """The image, its known defects outlined, and the image under its heat map."""
    height, width = one.image.shape[1:]
    factor = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    shown = F.interpolate(displayable(one.image[None]), size=size, mode="area")[0]
    picture = to_pil(shown)
    smooth = F.interpolate(one.map[None, None].float(), size=size, mode="bilinear")[0, 0]
    heat = heat_map(smooth, top, size).convert("RGB")
    mixture = Image.blend(picture, heat, SHARE)
    if one.mask is not None and one.mask.any():
        share = F.interpolate(one.mask[None, None].float(), size=size, mode="area")
        mask = (share > 0).float()
        edge = (F.max_pool2d(mask, 3, stride=1, padding=1) - mask)[0, 0] > 0
        colours = shown[:3] if len(shown) >= 3 else shown[:1].expand(3, -1, -1)
        picture = to_pil(torch.where(edge, OUTLINE[:, None, None], colours))
    return picture, mixture


def _card(one: Suspect, top: float) -> Markup:
    names = ("image", "image under the heat map")
    pair = [
        tag(
            "label",
            void("input", type="checkbox", aria_label=f"enlarge: {name} {one.name}"),
            void(
                "img",
                src=data_uri(picture),
                alt=f"{name}: {one.name}",
                width=picture.width,
                height=picture.height,
                loading="lazy",
                class_="small" if max(picture.size) < SIDE // 2 else None,
            ),
        )
        for name, picture in zip(names, pictures(one, top), strict=True)
    ]
    verdict = "anomalous" if one.is_anomalous else "normal"
    facts = [
        tag("b", text(f"{one.score:.4g}")),
        tag("span", text(f"p = {one.p:.3g}")),
        tag("span", text(verdict), class_="level"),
    ]
    facts += [tag("span", text(f"is {one.truth}"))] if one.truth else []
    caption = tag(
        "figcaption",
        tag("div", *facts, class_="facts"),
        tag("div", text(one.name), class_="name"),
    )
    side = "above" if one.is_anomalous else "below"
    return tag("figure", tag("div", *pair, class_="pair"), caption, class_=f"card {side}")
