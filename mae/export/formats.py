"""Formats of `mae export` by name: those of any objective, and an objective's own."""

from collections.abc import Mapping

from mae.base.errors import UserError
from mae.export.graphs import write_onnx, write_program
from mae.export.plain import write_plain
from mae.export.subject import Writer
from mae.export.timm import write_timm
from mae.networks.vit import timm_encoder
from mae.objectives.base import Implementation, Objective

OF_ENCODERS: Mapping[str, Writer] = {
    "timm": write_timm,
    "onnx": write_onnx,
    "torch": write_program,
}
"""of objectives whose `encoder` is a Vision Transformer of timm's"""

OF_ALL: Mapping[str, Writer] = {"plain": write_plain}


def formats_of(objective: Objective, own: Implementation) -> dict[str, Writer]:
    """Name → writer; the first is the one to take where nobody chooses."""
    shared = {} if timm_encoder(objective) is None else OF_ENCODERS
    return {**shared, **own.exports, **OF_ALL}


def writer_of(name: str | None, formats: Mapping[str, Writer], objective: str) -> Writer:
    """The writer of a format, or the first; UserError where there is none of that name."""
    if name is None:
        return next(iter(formats.values()))
    if name not in formats:
        raise UserError(
            f"--format {name}: objective {objective} has no such format; it has "
            f"{', '.join(formats)}"
        )
    return formats[name]
