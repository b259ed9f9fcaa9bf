"""What the commands of `mae` do, given their parsed arguments."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mae.data.decode import decode
from mae.data.loader import CentredViews
from mae.data.manifest import EXTENSIONS, build_manifest, shard_index, summary
from mae.data.pack import pack_folder
from mae.data.pillow import BadImage
from mae.data.transform import center_view
from mae.errors import UserError
from mae.evaluation.linear_probe import probe_report, probe_table
from mae.evaluation.reconstruction import explained_variance
from mae.export.timm import export_timm
from mae.hashing import Stream, fold
from mae.models.mae import MaskedAutoencoder
from mae.training.run import build_objective, load_pretrained
from mae.visualize import reconstruction_panel, save_png


def pack(args: argparse.Namespace) -> None:
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
    for shard in packed.shards:
        shard_index(shard)  # cached beside the shard
    patterns = [f"{args.out}/{split}-*.tar" for split in ("train", "val")]
    for pattern, count in zip(patterns, (packed.train, packed.val), strict=True):
        if count:
            print(f"  {pattern}")


def index(args: argparse.Namespace) -> None:
    """`mae index`."""
    for word, value in summary(build_manifest(args.shards, "index", args.index_dir)):
        print(f"{word:12} {value}")


def export(args: argparse.Namespace) -> None:
    """`mae export`."""
    config, model, position = load_pretrained(args.run)
    export_timm(config, _mae(model), position, args.out)
    print(f"{args.out}: the encoder of step {position.step:,}, checked through timm; load it with")
    print(f'  timm.create_model("local-dir:{args.out}", pretrained=True, num_classes=…)')


def probe(args: argparse.Namespace) -> None:
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
        device=_device(args),
        workers=args.workers,
        say=lambda text: print(text, file=sys.stderr),
    )
    out = args.out or args.run / "probe.json"
    _write_json(out, {"run": str(args.run), "step": position.step, **report})
    print(probe_table(report))
    print(out)


def reconstruct(args: argparse.Namespace) -> None:
    """`mae reconstruct`."""
    config, objective, position = load_pretrained(args.run)
    device = _device(args)
    model = _mae(objective).to(device)
    limit = max(args.count, args.r2_images)
    images = load_images(args.images, model, config.data.crop_pct, limit, config.data.index_dir)
    images = images.to(device)
    words = fold(args.seed, Stream.PANEL, torch.arange(len(images)).numpy())
    seeds = torch.from_numpy(words.view("int64")).to(device)
    out = args.out or args.run / "reconstruction.png"
    title = f"{args.run}, step {position.step}"
    panel = reconstruction_panel(model, images[: args.count], seeds[: args.count], title)
    try:
        save_png(panel, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
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


def _device(args: argparse.Namespace) -> str:
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


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
