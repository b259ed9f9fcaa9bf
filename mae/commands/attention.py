"""`mae attention`: attention maps of the encoder's last block."""

import argparse
from typing import Any

from mae.commands.options import add_command, picture_options


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "attention", "picture of attention maps of the encoder's last block", run
    )
    picture_options(parser, "attention")


def run(args: argparse.Namespace) -> None:
    """Write the picture; print its path."""
    from mae.commands.pictures import open_picture_source, picture_path, write_sheet
    from mae.networks.vit import timm_encoder
    from mae.pictures.attention import attention_sheet, last_attention

    out, source = picture_path(args, "attention"), open_picture_source(args, "attention")
    encoder = timm_encoder(source.objective)
    if encoder is None:
        raise source.lacking("attention blocks of a Vision Transformer of timm")
    grid = source.token_grid()
    images, names, *_ = source.load()
    maps = last_attention(encoder, source.objective.encode, images)
    write_sheet(attention_sheet(images, names, maps, grid, source.title), out)
    print(out)
