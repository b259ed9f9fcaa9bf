"""The command line: `mae COMMAND …`."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mae import __version__, pretrain
from mae.data.decode import BadImage, decode
from mae.data.loader import CentredViews
from mae.data.manifest import EXTENSIONS, build_manifest, summary
from mae.data.pack import pack_folder
from mae.data.transform import center_view
from mae.errors import UserError
from mae.evaluation.linear_probe import probe_report, probe_table
from mae.evaluation.reconstruction import explained_variance
from mae.export.timm import export_timm
from mae.hashing import Stream, fold
from mae.models.mae import MaskedAutoencoder
from mae.training.run import build_objective, load_pretrained
from mae.visualize import reconstruction_panel, save_png


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "pretrain":  # its settings are no options of ours
        return pretrain.main(argv[1:])
    args = build_parser().parse_args(argv)
    try:
        args.run_command(args)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"mae: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nmae: interrupted", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="mae", description="Masked Autoencoder pretraining of Vision Transformers."
    )
    parser.add_argument("--version", action="version", version=f"mae {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str):
        added = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        added.set_defaults(run_command=run)
        return added

    commands.add_parser("pretrain", help="pretrain, or continue a run (one process)")

    pack = command("pack", run_pack, "pack a folder of images into shards")
    pack.add_argument("source", type=Path, help="folder of JPEG and PNG images, searched below")
    pack.add_argument("out", type=Path, help="new folder for the shards")
    pack.add_argument("--shard-size", type=_positive, default=1000, help="images per shard")
    pack.add_argument("--val", type=_share, default=0.0, help="share set aside as val-*.tar")
    pack.add_argument("--seed", type=int, default=0, help="of the shuffle")
    pack.add_argument(
        "--labels",
        action=argparse.BooleanOptionalAction,
        help="top-level folders are classes (default: where no image lies outside of one)",
    )

    index = command("index", run_index, "read and cache the index of shards, and sum it up")
    index.add_argument("shards", nargs="+", help="tars: paths, brace patterns, globs")
    index.add_argument("--index-dir", type=Path, help="cache folder (beside the shards if unset)")

    export = command("export", run_export, "export the encoder of a run")
    export.add_argument("run", type=Path, help="run folder")
    export.add_argument("out", type=Path, help="new folder")
    export.add_argument("--format", choices=["timm"], default="timm", help="whose format")

    probe = command("probe", run_probe, "linear probe on frozen features of labelled shards")
    probe.add_argument("run", type=Path, help="run folder")
    probe.add_argument("--train", nargs="+", required=True, help="labelled shards to fit on")
    probe.add_argument("--test", nargs="+", required=True, help="labelled shards to test on, once")
    probe.add_argument(
        "--per-class", type=_positive, nargs="*", default=[], help="also with so few labels"
    )
    probe.add_argument("--splits", type=_positive, default=5, help="repetitions")
    probe.add_argument(
        "--baselines", action="store_true", help="probe the untrained encoder and pixels too"
    )
    probe.add_argument("--seed", type=int, default=0, help="of the splits")
    probe.add_argument("--out", type=Path, help="JSON file (RUN/probe.json if unset)")
    _device_options(probe)

    show = command("reconstruct", run_reconstruct, "reconstruction panel and R² on hidden patches")
    show.add_argument("run", type=Path, help="run folder")
    show.add_argument("images", nargs="+", help="images, or shards")
    show.add_argument("--out", type=Path, help="PNG (RUN/reconstruction.png if unset)")
    show.add_argument("--count", type=_positive, default=8, help="images on the panel")
    show.add_argument("--r2-images", type=_positive, default=512, help="images for R², at most")
    show.add_argument("--seed", type=int, default=0, help="of the masks")
    _device_options(show)
    return parser


def run_pack(args: argparse.Namespace) -> None:
    """`mae pack`."""
    interactive = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if interactive:
            end = "\n" if done == total else ""
            print(f"\rpacked {done:,} of {total:,} images", end=end, file=sys.stderr, flush=True)

    packed = pack_folder(
        args.source,
        args.out,
        shard_size=args.shard_size,
        val_fraction=args.val,
        labels=args.labels,
        seed=args.seed,
        progress=progress,
    )
    for path, reason in packed.folder.skipped[:10]:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    if len(packed.folder.skipped) > 10:
        print(f"skipped {len(packed.folder.skipped) - 10} more files", file=sys.stderr)
    classes = f"{len(packed.folder.classes)} classes" if packed.folder.classes else "no labels"
    print(f"{args.out}: {packed.train:,} training and {packed.val:,} validation images, {classes}")
    patterns = [f"{args.out}/{split}-*.tar" for split in ("train", "val")]
    for pattern, count in zip(patterns, (packed.train, packed.val), strict=True):
        if count:
            build_manifest([pattern])
            print(f"  {pattern}")


def run_index(args: argparse.Namespace) -> None:
    """`mae index`."""
    for word, value in summary(build_manifest(args.shards, "index", args.index_dir)):
        print(f"{word:12} {value}")


def run_export(args: argparse.Namespace) -> None:
    """`mae export`."""
    config, model, position = load_pretrained(args.run)
    export_timm(config, _mae(model), position, args.out)
    print(f"{args.out}: the encoder of step {position.step:,}, checked through timm; load it with")
    print(f'  timm.create_model("local-dir:{args.out}", pretrained=True, num_classes=…)')


def run_probe(args: argparse.Namespace) -> None:
    """`mae probe`."""
    config, objective, position = load_pretrained(args.run)
    report = probe_report(
        config,
        objective,
        build_objective(config) if args.baselines else None,
        build_manifest(args.train, "--train", config.data.index_dir),
        build_manifest(args.test, "--test", config.data.index_dir),
        budgets=(None, *args.per_class),
        splits=args.splits,
        seed=args.seed,
        device=args.device,
        workers=args.workers,
        say=lambda text: print(text, file=sys.stderr),
    )
    out = args.out or args.run / "probe.json"
    _write_json(out, {"run": str(args.run), "step": position.step, **report})
    print(probe_table(report))
    print(out)


def run_reconstruct(args: argparse.Namespace) -> None:
    """`mae reconstruct`."""
    config, objective, position = load_pretrained(args.run)
    model = _mae(objective).to(args.device)
    limit = max(args.count, args.r2_images)
    images = load_images(args.images, model, config.data.crop_pct, limit, config.data.index_dir)
    images = images.to(args.device)
    words = fold(args.seed, Stream.PANEL, torch.arange(len(images)).numpy())
    seeds = torch.from_numpy(words.view("int64")).to(args.device)
    out = args.out or args.run / "reconstruction.png"
    title = f"{args.run}, step {position.step}"
    save_png(reconstruction_panel(model, images[: args.count], seeds[: args.count], title), out)
    pairs = zip(images[: args.r2_images].split(64), seeds[: args.r2_images].split(64), strict=True)
    explained = explained_variance(model, pairs)
    _write_json(out.with_suffix(".json"), {"step": position.step, **explained._asdict()})
    given = "0 by definition" if model.norm_pix_loss else "told, no model could be"
    print(f"R² on hidden patches of {explained.images} images")
    print(f"  {'model':34}{explained.model:7.3f}")
    print(f"  {'interpolation of visible patches':34}{explained.interpolation:7.3f}")
    print(f"  {'mean of each hidden patch':34}{explained.patch_mean:7.3f}  ({given})")
    print(out)


def load_images(
    sources: Sequence[str],
    model: MaskedAutoencoder,
    crop_pct: float,
    limit: int,
    index_dir: Path | None,
) -> torch.Tensor:
    """The first `limit` images of image files, or else of shards, as centred uint8 views."""
    channels = model.encoder.patch_embed.proj.in_channels
    if not all(Path(source).suffix[1:].lower() in EXTENSIONS for source in sources):
        manifest = build_manifest(sources, "images", index_dir)
        shard_views = CentredViews(manifest, model.img_size, channels, crop_pct)
        return torch.stack([shard_views.view(i) for i in range(min(limit, len(manifest)))])
    views = []
    for path in map(Path, sources[:limit]):
        try:
            image = decode(path.read_bytes(), path.suffix[1:].lower(), channels)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except BadImage as error:
            raise UserError(f"{path}: {error}") from None
        views.append(center_view(image, model.img_size, crop_pct))
    return torch.stack(views)


def _mae(objective: torch.nn.Module) -> MaskedAutoencoder:
    if not isinstance(objective, MaskedAutoencoder):
        raise UserError("this command needs a masked autoencoder")
    return objective


def _write_json(path: Path, content: dict) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def _device_options(parser: argparse.ArgumentParser) -> None:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="where to compute")
    parser.add_argument("--workers", type=int, default=0, help="decoding processes")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


if __name__ == "__main__":
    sys.exit(main())
