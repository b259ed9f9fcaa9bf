"""`mae export`."""

import argparse

import torch
from torch import Tensor

from mae.commands.images import load_images
from mae.config import Config
from mae.data.class_names import class_names
from mae.data.shards import expand_shards
from mae.errors import UserError
from mae.export.facts import read_facts
from mae.export.folder import export_folder
from mae.export.push import check_push, push
from mae.export.subject import Subject, choose_pool, resize
from mae.models.classifier import Classifier
from mae.models.mae import MaskedAutoencoder
from mae.remote.files import is_remote
from mae.training.run import load_pretrained, run_of

COUNT = 8
"""images that an export is checked on, at most"""

NOISE = "noise"
"""what --images takes instead of files"""


def export(args: argparse.Namespace) -> None:
    """`mae export`."""
    if args.pool and args.format in ("mae", "hf"):
        raise UserError(f"--pool: {args.format} has no place for it; its users pool themselves")
    if args.push:
        check_push(args.push)
    config, objective, position = load_pretrained(args.run)
    assert isinstance(objective, MaskedAutoencoder | Classifier)
    model, names = objective, list[str]()
    if isinstance(model, Classifier):
        if args.format in ("mae", "hf"):
            raise UserError(f"--format {args.format}: is for encoders; timm, onnx, torch take this")
        if model.average is not None:
            model.encoder, model.average = model.average, None
        names = class_names(config.data.train, config.finetune.num_classes, run_of(args.run).folder)
    pool = choose_pool(model, args.pool)
    trained_size = model.img_size
    if args.img_size:
        config = resize(config, model, args.img_size)
    images, checked_on = check_images(args.images, config, model)
    decoder = args.decoder and isinstance(model, MaskedAutoencoder)
    if decoder and config.model.decoder_attention == "cross" and args.format in ("mae", "hf"):
        print(f"--format {args.format} has no names for a decoder of cross-attention: without it")
        decoder = False
    subject = Subject(config, model, position, pool, decoder, trained_size, names)
    facts = read_facts(run_of(args.run), position)
    done = export_folder(args.format, subject, images, facts, checked_on, args.out, args.push)
    off = f"off by {done.off:.0e} at most" if done.off else "equal to the last bit"
    print(
        f"{args.out}: the {'classifier' if names else 'encoder'} of step {position.step:,}, "
        f"checked through {done.reader} on {checked_on} ({off}); load it with"
    )
    print("\n".join(f"  {line}" for line in done.code.splitlines()))
    if args.push:
        print(push(args.out, args.push))


def check_images(
    chosen: list[str] | None, config: Config, model: MaskedAutoencoder | Classifier
) -> tuple[Tensor, str]:
    """Raw images [b c h w] to check an export on, and what they are.

    Without a choice the first of the run's held-out or training images, of remote shards where
    none are on this machine.  Raises UserError where these, or the chosen ones, cannot be read.
    """
    if chosen == [NOISE]:
        return noise(config, model), f"{NOISE} (--images {NOISE})"
    if chosen:
        images = load_images(chosen, config, model.img_size, COUNT).images
        return images, f"{len(images)} images of {' '.join(chosen)}"
    data = config.data
    sets = [("data.val", data.val), ("data.train", data.train)]
    sets += [(f"data.mixture.{i}", part.shards) for i, part in enumerate(data.mixture)]
    reasons = []
    for key, patterns in sorted(sets, key=lambda one: any(map(is_remote, one[1]))):
        if not patterns:
            continue
        try:
            # One shard: more would be downloads, or hours of indexing, for a few images.
            first = expand_shards(patterns, key, data.allow_pipe)[:1]
            images = load_images(first, config, model.img_size, COUNT).images
        except UserError as error:  # moved or deleted since, or out of reach
            reasons.append(str(error))
            continue
        return images, f"{len(images)} images of the run's {key}"
    raise UserError(
        f"--images: none of the run's own can be read ({'; '.join(reasons)}): give some to check "
        f"the export on, or --images {NOISE}"
    )


def noise(config: Config, model: MaskedAutoencoder | Classifier) -> Tensor:
    """Images as the run takes them, every number of them drawn; the same each time."""
    shape = (COUNT, config.model.in_chans, *model.img_size)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, model.white + 1, shape, generator=generator, dtype=torch.int32)
    return images.to(torch.uint8 if config.data.bits == 8 else torch.uint16)
