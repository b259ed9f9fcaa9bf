"""Features that images are compared by, as the options of a command choose them."""

import argparse
from collections.abc import Callable, Sequence

from mae.base.device import choose_device
from mae.commands.options import weight_options, with_own_cache
from mae.similarity.features import FeatureSource, open_features


def open_chosen_features(
    args: argparse.Namespace, images: Sequence[str], log: Callable[[str], None]
) -> FeatureSource:
    """Open `args.features` for `images`, see `feature_source_options`; log lines on its weights.

    Raises UserError as `open_features`.
    """
    source = open_features(
        args.features,
        images,
        command=args.command,
        out=args.out,
        feature=args.feature,
        channels=args.channels,
        bits=args.bits,
        options=weight_options(args),
        device=choose_device(args.device),
        read_with=lambda config: with_own_cache(config, args),
    )
    for line in source.lines:
        log(f"weights {line}")
    return source
