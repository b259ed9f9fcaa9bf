"""What the commands around a run do, given their parsed arguments: export, probe, reconstruct."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from mae.config import Config
from mae.data.loader import CentredViews, TrainingViews
from mae.data.training_data import open_images, open_training_data
from mae.data.transform import center_view, stack
from mae.decoding.decode import decode
from mae.decoding.formats import EXTENSIONS
from mae.decoding.pillow import BadImage
from mae.errors import UserError
from mae.evaluation.linear_probe import probe_report, probe_table
from mae.evaluation.reconstruction import explained_variance
from mae.export.timm import export_timm
from mae.hashing import Stream, fold
from mae.models.mae import MaskedAutoencoder
from mae.report.page import write_report
from mae.results import write_json
from mae.tensor_hashing import as_tensor
from mae.training.run import Run, build_objective, load_pretrained
from mae.visualize import reconstruction_panel, save_png, tile


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
        open_images(args.train, "--train", config),
        open_images(args.test, "--test", config),
        budgets=(None, *args.per_class),
        splits=args.splits,
        seed=args.seed,
        device=_device(args),
        workers=args.workers,
        say=lambda text: print(text, file=sys.stderr),
    )
    out = args.out or args.run / "probe.json"
    write_json(out, {"run": str(args.run), "step": position.step, **report})
    print(probe_table(report))
    print(out)


def reconstruct(args: argparse.Namespace) -> None:
    """`mae reconstruct`."""
    config, objective, position = load_pretrained(args.run)
    device = _device(args)
    model = _mae(objective).to(device)
    limit = max(args.count, args.r2_images)
    images = load_images(args.images, config, model, limit).to(device)
    words = fold(args.seed, Stream.PANEL, torch.arange(len(images)).numpy())
    seeds = as_tensor(words).to(device)
    out = args.out or args.run / "reconstruction.png"
    title = f"{args.run}, step {position.step}"
    panel = reconstruction_panel(model, images[: args.count], seeds[: args.count], title)
    write_png(panel, out)
    pairs = zip(images[: args.r2_images].split(64), seeds[: args.r2_images].split(64), strict=True)
    explained = explained_variance(model, pairs)
    write_json(out.with_suffix(".json"), {"step": position.step, **explained._asdict()})
    given = "0 by definition" if model.norm_pix_loss else "told, no model could be"
    print(f"R² on hidden patches of {explained.images} images")
    print(f"  {'model':34}{explained.model:7.3f}")
    print(f"  {'interpolation of visible patches':34}{explained.interpolation:7.3f}")
    print(f"  {'mean of each hidden patch':34}{explained.patch_mean:7.3f}  ({given})")
    print(out)


def inspect_batch(args: argparse.Namespace) -> None:
    """`mae inspect-batch`."""
    run = Run(args.run)
    config, data = open_training_data(run.config())
    size, steps = config.train.batch_size, args.step
    names = data.names(steps, size)
    # Made on the CPU, whatever the run did: within rounding the same crops.
    settings = config.data.model_copy(update={"crop_on_device": False})
    img_size = build_objective(config).img_size
    views = TrainingViews(
        data.manifest, data.order, settings, img_size, config.model.in_chans, data.cache
    )
    first = (steps - 1) * size
    batch = views[range(first, first + min(size, args.count))]
    if isinstance(batch, UserError):
        raise batch
    replaced = {bad.sample: bad.reason for bad in batch.bad}
    for number, name in enumerate(names):
        print(f"{number:5}  {name}")
    for reason in replaced.values():
        print(f"replaced  {reason}")
    assert isinstance(batch.images, torch.Tensor)
    white = torch.iinfo(batch.images.dtype).max
    out = args.out or args.run / f"batch-{steps:09d}.png"
    crops = {"crops as trained on": batch.images.float() / white}
    write_png(tile(crops, f"{args.run}, step {steps}, the first {len(batch.images)}"), out)
    print(out)


def report(args: argparse.Namespace) -> None:
    """`mae report`."""
    print(write_report(args.run, args.out or args.run / "report.html"))


def write_png(image: Image.Image, out: Path) -> None:
    """UserError where `out` cannot be written."""
    try:
        save_png(image, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None


def load_images(
    sources: Sequence[str], config: Config, model: MaskedAutoencoder, limit: int
) -> torch.Tensor:
    """The first `limit` images of image files, or else of shards, as centred views."""
    data, size = config.data, model.img_size
    if not all(Path(source).suffix[1:].lower() in EXTENSIONS for source in sources):
        images = open_images(sources, "images", config)
        views = CentredViews(images, size, data.crop_pct)
        return stack([views.view(i) for i in range(min(limit, len(views)))])
    found = []
    for path in map(Path, sources[:limit]):
        try:
            extension = path.suffix[1:].lower()
            image = decode(path.read_bytes(), extension, config.model.in_chans, data.bits)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except BadImage as error:
            raise UserError(f"{path}: {error}") from None
        found.append(center_view(image, size, data.crop_pct))
    return stack(found)


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
