"""Options of the commands that draw."""

from pathlib import Path
from typing import Any

from mae.options.parsing import command, device_option, natural, positive


def add_picture_commands(commands: Any) -> None:
    """`mae reconstruct`."""
    show = command(
        commands, "pictures", "reconstruct", "reconstruction panel and R² on hidden patches"
    )
    show.add_argument("run", type=Path, help="run folder")
    show.add_argument("images", nargs="+", help="images, or shards")
    show.add_argument("--out", type=Path, help="PNG (RUN/reconstruction.png if unset)")
    show.add_argument("--count", type=positive, default=8, help="images on the panel")
    show.add_argument("--r2-images", type=positive, default=512, help="images for R², at most")
    show.add_argument("--seed", type=natural, default=0, help="of the masks")
    device_option(show)
