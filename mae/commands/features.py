"""`mae features`: frozen features of shards in one file."""

import argparse
from pathlib import Path
from typing import Any

from mae.commands.options import (
    SHARDS,
    add_command,
    encoding_options,
    portion_of,
    portion_options,
    run_argument,
    weight_options,
    with_own_cache,
)

EPILOG = (
    "Writes one safetensors file: float16 vectors per image (`mean` of the patch tokens, `cls` "
    "where the encoder has a class token, `tokens` with --tokens), labels (-1: none) and names. "
    "Images that do not decode are named and skipped; more than data.max_bad of them are an error. "
    "Features cached in RUN/features are copied. A file written there serves knn, probe and "
    "fewshot, with --tokens attentive too."
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "features", "write frozen features of shards to a file", run, EPILOG
    )
    run_argument(parser)
    parser.add_argument("shards", nargs="+", help=f"labelled or not; {SHARDS}")
    parser.add_argument("--out", type=Path, required=True, help="new file, .safetensors")
    parser.add_argument("--tokens", action="store_true", help="write all patch tokens, too")
    encoding_options(parser)
    portion_options(parser)


def run(args: argparse.Namespace) -> None:
    """Encode the shards, or copy cached features; print shapes and counts.

    Raises UserError where --out exists or the encoder has no such features.
    """
    from mae.base.device import choose_device, loader_count
    from mae.base.errors import UserError
    from mae.data.opening import open_labelled
    from mae.evaluation.encoders import open_encoder
    from mae.evaluation.encoding import write_features
    from mae.evaluation.feature_cache import (
        FOLDER,
        SUFFIX,
        copy_features,
        features_metadata,
    )
    from mae.evaluation.features import BATCH, encoder_outputs, missing_features
    from mae.evaluation.features_file import read_features
    from mae.pretrained_weights.opened import results_folder

    if args.out.suffix != SUFFIX:
        raise UserError(f"--out: {args.out} must end in {SUFFIX}")
    portion = portion_of(args)
    log = portion.log
    if (portion.joins or portion.is_task) and args.out.exists():
        raise UserError(f"--out: {args.out} exists; nothing is overwritten")
    device = choose_device(args.device)
    opened = open_encoder(args.run, weight_options(args))
    for line in opened.lines:
        log(f"weights {line}")
    config = with_own_cache(opened.config, args)
    encoder, module = opened.encoder, opened.module.to(device).eval()
    outputs = encoder_outputs(module, encoder.encode, encoder.img_size, opened.config, device)
    if args.tokens and not outputs.patch_size:
        raise missing_features(args.run, opened.objective, "patch tokens", "features --tokens")
    if not (args.tokens or outputs.vectors):
        raise missing_features(args.run, opened.objective, "pooled features", "features")
    images = portion.first_before_others(
        lambda: open_labelled(args.shards, "shards", config, (), "").images
    )
    folder = results_folder(args.run) / FOLDER
    chosen: dict[str, Any] = {"tokens": args.tokens, "max_bad": opened.config.data.max_bad}
    is_copied = False
    if portion.joins and not portion.is_join:
        is_copied = copy_features(
            encoder, images, folder, args.out, step=opened.step, log=log, **chosen
        )
    if not portion.gather(is_copied)[0]:
        write_features(
            encoder,
            images,
            args.out,
            features_metadata(encoder, images, opened.step),
            device=device,
            batch_size=args.batch_size or BATCH,
            workers=loader_count(args.workers),
            portion=portion,
            log=log,
            **chosen,
        )
    portion.leave_to_first()
    features = read_features(args.out)
    for name, vectors in features.vectors.items():
        print(f"{name:8}{list(vectors.shape)} float16")
    labelled = (features.labels >= 0).sum()
    print(f"{args.out}: {len(features.labels):,} images, {labelled:,} labelled")
