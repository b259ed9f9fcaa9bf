"""`mae export`."""

import argparse

import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.commands.images import load_images
from mae.config.sections import Config
from mae.data.shards import expand_shards
from mae.export.card import read_facts
from mae.export.folder import check_push, export_folder, formats_of, push, writer_of
from mae.export.subject import Subject, choose_pool, resize
from mae.objectives.registry import declaration, implementation
from mae.storage.files import is_remote
from mae.training.checkpoint.run import run_of
from mae.training.checkpoint.trained import load_pretrained, refuse_probe

COUNT = 8
"""images that an export is checked on, at most"""

NOISE = "noise"
"""what --images takes instead of files"""


def export(args: argparse.Namespace) -> None:
    """`mae export`."""
    if args.push:
        check_push(args.push)
    refuse_probe(args.run)
    config, model, state = load_pretrained(args.run)
    run, own = run_of(args.run), implementation(config.objective)
    write = writer_of(args.format, formats_of(model, own), config.objective)
    pool = choose_pool(model, own, args.pool)
    trained_size = model.img_size
    if args.img_size:
        config = resize(config, model, own, args.img_size)
    images, checked_on = check_images(args.images, config, model.img_size)
    given = {"--pool": args.pool is not None, "--no-decoder": not args.decoder}
    subject = Subject(
        config,
        model,
        state,
        pool,
        args.decoder,
        trained_size,
        own.class_names(config, run.folder),
        frozenset(option for option, is_given in given.items() if is_given),
    )
    facts = read_facts(run, state, declaration(config.objective))
    done = export_folder(write, subject, images, facts, checked_on, args.out, args.push)
    for line in done.remarks:
        print(line)
    off = f"off by {done.off:.0e} at most" if done.off else "equal to the last bit"
    print(
        f"{args.out}: the {done.part} of step {state.step:,}, checked through {done.reader} on "
        f"{checked_on} ({off}); load it with"
    )
    print("\n".join(f"  {line}" for line in done.code.splitlines()))
    if args.push:
        print(push(args.out, args.push))


def check_images(
    chosen: list[str] | None, config: Config, img_size: tuple[int, int]
) -> tuple[Tensor, str]:
    """Raw images [b c h w] to check an export on, and what they are.

    Without a choice the first of the run's held-out or training images, of remote shards where
    none are on this machine.  Raises UserError where these, or the chosen ones, cannot be read.
    """
    if chosen == [NOISE]:
        return noise(config, img_size), f"{NOISE} (--images {NOISE})"
    if chosen:
        images = load_images(chosen, config, img_size, COUNT).images
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
            images = load_images(first, config, img_size, COUNT).images
        except UserError as error:  # moved or deleted since, or out of reach
            reasons.append(str(error))
            continue
        return images, f"{len(images)} images of the run's {key}"
    raise UserError(
        f"--images: none of the run's own can be read ({'; '.join(reasons)}): give some to check "
        f"the export on, or --images {NOISE}"
    )


def noise(config: Config, img_size: tuple[int, int]) -> Tensor:
    """Images as the run takes them, every number of them drawn; the same each time."""
    bits = config.data.bits
    generator = torch.Generator().manual_seed(0)
    shape = (COUNT, config.data.in_chans, *img_size)
    images = torch.randint(0, 2**bits, shape, generator=generator, dtype=torch.int32)
    return images.to(torch.uint8 if bits == 8 else torch.uint16)
