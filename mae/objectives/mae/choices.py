"""Rules of `mae pretrain auto` for masked autoencoding: facts → settings, each with its reason.

Pure functions.  A rule reads the choices before it, given ones included, so that what depends on a
given setting follows it.  docs/CHOOSING.md has the evidence.
"""

import math
from collections.abc import Mapping
from typing import Any

from mae.base.errors import UserError
from mae.base.machine import Machine
from mae.config.choices import GIVEN, Choice, is_given, power_of_two
from mae.data.facts import DataFacts
from mae.decoding.pixels import FLOAT_BITS
from mae.objectives.mae.cost import Shape, activation_bytes, operations, parameters
from mae.objectives.mae.sizes import BASE, ON_CPU, SMALL, TINY, EncoderSize, shape_of, size_of

SIDES = (16, 12, 8, 6, 4, 3, 2)
"""sides of patches, in pixels, largest first"""
SIDE_ON_GPU, SIDE_ON_CPU = 224, 64
"""image side in pixels, where the images have as many"""
PATCHES_ON_GPU, PATCHES_ON_CPU = 144, 48
"""least number of patches of an image"""
SMALLEST_SIDE = 16
"""image side in pixels to which smaller images are enlarged"""
MOST_PATCHES, FEWEST_PATCHES = 4096, 4
"""numbers of patches beyond which an image size is refused"""
FEWEST_NORMALISED = 48
"""numbers in a patch from which targets are normalised within it: of fewer hardly more is left than
signs; the recipes for CIFAR-10 in patches of 2 px, and for digits, do not normalise"""
ELONGATED = 1.5
"""aspect ratio from which images of one shape are not made square"""

MANY = 300_000
"""images from which a GPU trains ViT-B"""
HOURS_ON_GPU, HOURS_ON_CPU = 24.0, 1.0
"""training time that is planned for where auto.hours says nothing"""
ENOUGH_VIEWS = 300_000
"""images that an encoder must see in that time, each time counted, or a smaller one is chosen"""
ANCHOR = (50_000, 2000)
"""images and epochs of the published run on CIFAR-10: other numbers of images get epochs by the
inverse square root"""
MOST_EPOCHS = 4000
STEPS, FEWEST_STEPS = 20_000, 2000
"""a larger batch than USUAL_BATCH is chosen from STEPS on, a smaller one below FEWEST_STEPS"""
USUAL_BATCH, LEAST_BATCH = 64, 32
COMPILED_HOURS = 0.5
"""planned hours from which compilation pays"""


class Chosen:
    """Choices made so far; where a setting was given, its value instead."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given, self.made = given, list[Choice]()

    def add(self, key: str, value: Any, reason: str) -> Any:
        """Record a choice; the value that counts: the given one, if any."""
        value = self.given.get(key, value)
        self.made.append(Choice(key, value, GIVEN if self.has(key) else reason))
        return value

    def has(self, key: str) -> bool:
        """True where the setting was given."""
        return is_given(key, self.given)


def choices(facts: DataFacts, machine: Machine, given: Mapping[str, Any]) -> list[Choice]:
    """All choices; `given`: settings of the user as section.key → value, which replace them."""
    chosen = Chosen(given)
    hours = _choose_hours(chosen, machine)
    budget = hours * 3600 * machine.speed
    pixels = _choose_images(chosen, facts, machine)
    patch = _choose_patch(chosen, pixels, machine, enlargement(facts))
    patches = max(1, (pixels[0] // patch) * (pixels[1] // patch))
    channels = given.get("data.in_chans", facts.channels)
    few = channels * patch**2 < FEWEST_NORMALISED
    reason = f"{channels * patch**2} numbers in a patch"
    chosen.add("model.norm_pix_loss", not few, f"{reason} are {'too few' if few else 'enough'}")
    size = _choose_encoder(chosen, facts, machine, budget, patches, channels * patch**2)
    shape = shape_of(size, patches, channels * patch**2, given)
    cost = operations(shape)
    _choose_schedule(chosen, facts, machine, size, budget / cost, hours)
    _choose_process(chosen, facts, machine, shape, hours)
    return chosen.made


def _choose_hours(chosen: Chosen, machine: Machine) -> float:
    """Choose the hours of training that are planned for."""
    given = chosen.given.get("auto.hours")
    usual = HOURS_ON_GPU if machine.has_gpu else HOURS_ON_CPU
    where = "with a GPU" if machine.has_gpu else "without a GPU"
    reason = GIVEN if given else f"planned {where}, where nothing is given"
    chosen.made.append(Choice("auto.hours", given or usual, reason))
    return given or usual


def _choose_images(chosen: Chosen, facts: DataFacts, machine: Machine) -> tuple[int, int]:
    """Choose channels, bits, crops and the image size; returns the size, height and width."""
    given = chosen.given
    words = {1: "grey", 3: "colour"}.get(facts.channels, f"{facts.channels} channels")
    chosen.add("data.in_chans", facts.channels, f"{words}, by the headers")
    bits = chosen.add("data.bits", facts.bits, f"{facts.bits} bits a channel, by the headers")
    if not (chosen.has("data.mean") or chosen.has("data.std")):
        chosen.add("data.own_statistics", True, "mean and deviation are measured on your images")
    native = bits == FLOAT_BITS
    if not native:
        chosen.add("data.crop_pct", 1.0, "evaluations see whole images")
    most = SIDE_ON_GPU if machine.has_gpu else SIDE_ON_CPU
    where = "a GPU" if machine.has_gpu else "CPUs"
    aspect = facts.width / facts.height
    is_long = facts.has_one_shape and max(aspect, 1 / aspect) >= ELONGATED
    short = facts.smallest if native else facts.short_side
    if native:
        target = (min(most, short),) * 2
        reason = f"arrays are cut, not resized; {most} are enough on {where}"
    elif is_long:
        root = math.sqrt(aspect)
        side = min(most, short * max(root, 1 / root))
        target = (round(side / root), round(side * root))
        reason = f"all are about {facts.height} x {facts.width}: as many pixels as {side:.0f}²"
    elif short < SMALLEST_SIDE:
        target = (short * enlargement(facts),) * 2
        reason = f"{facts.height} x {facts.width} px, enlarged: crops of so few would be blurred"
    else:
        target = (min(most, short),) * 2
        reason = f"{facts.height} x {facts.width} px; {most} are enough on {where}"
        if SMALLEST_SIDE <= short <= most:
            reason = f"the images' own, {facts.height} x {facts.width} px"
    patch = given.get("model.patch_size") or patch_for(target, machine, enlargement(facts))
    fitted = tuple(max(patch, side // patch * patch) for side in target)
    size = chosen.add(
        "data.img_size", list(fitted) if fitted[0] != fitted[1] else fitted[0], reason
    )
    height, width = (size, size) if isinstance(size, int) else size
    if is_long and not native and not chosen.has("data.ratio"):
        own = width / height
        ratio = [round(own * 3 / 4, 4), round(own * 4 / 3, 4)]
        chosen.add("data.ratio", ratio, "crops of the images' shape")
    return height, width


def enlargement(facts: DataFacts) -> int:
    """Factor by which images are enlarged to SMALLEST_SIDE; 1: they are not."""
    return 1 if facts.bits == FLOAT_BITS else -(-SMALLEST_SIDE // facts.short_side)


def patch_for(size: tuple[int, int], machine: Machine, factor: int) -> int:
    """Largest side of patches of which an image of about `size` has enough.

    A patch has two pixels or more of images enlarged by `factor`.
    """
    least = PATCHES_ON_GPU if machine.has_gpu else PATCHES_ON_CPU
    fitting = (one for one in SIDES if (size[0] // one) * (size[1] // one) >= least)
    return max(SIDES[-1] * factor, next(fitting, SIDES[-1]))


def _choose_patch(chosen: Chosen, size: tuple[int, int], machine: Machine, factor: int) -> int:
    """Choose the patch size, a divisor of the image size; `factor` as in `patch_for`."""
    least = PATCHES_ON_GPU if machine.has_gpu else PATCHES_ON_CPU
    dividing = [one for one in SIDES if not (size[0] % one or size[1] % one)]
    larger = [one for one in dividing if one >= SIDES[-1] * factor]
    enough = [one for one in larger if (size[0] // one) * (size[1] // one) >= least]
    side = (enough[:1] or larger[-1:] or [1])[0]
    count = (size[0] // side) * (size[1] // side)
    if count > MOST_PATCHES and not chosen.has("model.patch_size"):
        near = " x ".join(str(max(16, round(one / 16) * 16)) for one in size)
        raise UserError(
            f"data.img_size: {size[0]} x {size[1]} px divide into {count:,} patches at the least: "
            f"try {near}, or give model.patch_size"
        )
    side = chosen.add("model.patch_size", side, f"{count} patches of an image") or 16
    count = (size[0] // side) * (size[1] // side)
    if count < FEWEST_PATCHES:
        raise UserError(
            f"model.patch_size: {side} leaves {count} of the {FEWEST_PATCHES} patches that images "
            f"of {size[0]} x {size[1]} px need at the least: give a smaller one"
        )
    return side


def _choose_encoder(
    chosen: Chosen,
    facts: DataFacts,
    machine: Machine,
    budget: float,
    patches: int,
    values: int,
) -> EncoderSize:
    """Choose encoder and decoder; returns their size."""
    given = chosen.given
    if chosen.has("model.encoder") or chosen.has("model.encoder_kwargs"):
        size, reason = size_of(given), GIVEN
    elif machine.has_gpu:
        is_many = facts.images >= MANY
        size = BASE if is_many else SMALL
        reason = f"{'from' if is_many else 'below'} {MANY:,} images"
    else:
        size, reason = ON_CPU[-1], "the smallest: the time is short"
        for one in ON_CPU:
            views = budget / operations(shape_of(one, patches, values, given))
            if views >= ENOUGH_VIEWS:
                size, reason = one, f"sees {rounded(views):,} images in the planned time"
                break
    chosen.add("model.encoder", size.name, reason)
    if size.name == TINY and (size.width, size.depth) != (192, 12):
        kwargs = {"embed_dim": size.width, "depth": size.depth, "num_heads": size.heads}
        if not chosen.has("model.encoder_kwargs"):
            chosen.add("model.encoder_kwargs", kwargs, f"{size.depth} blocks, {size.width} wide")
    deep = "as in the paper" if size.decoder_depth > 1 else "depth barely matters for fine-tuning"
    for key, value, why in (
        ("decoder_embed_dim", size.decoder_width, "goes with the encoder"),
        ("decoder_depth", size.decoder_depth, deep),
        ("decoder_num_heads", size.decoder_heads, "goes with the width"),
    ):
        chosen.add(f"model.{key}", value, why)
    return size


def _choose_schedule(
    chosen: Chosen,
    facts: DataFacts,
    machine: Machine,
    size: EncoderSize,
    views: float,
    hours: float,
) -> None:
    """Choose batch, epochs, learning rate and warm-up; `views`: images seen in the time."""
    images, given = facts.images, chosen.given
    known_images, known_epochs = ANCHOR
    wanted = min(MOST_EPOCHS, known_epochs * math.sqrt(known_images / images))
    possible = views / images
    epochs = given.get("train.epochs") or significant(min(wanted, possible))
    views = epochs * images
    batch = batch_for(views, images, size.most, machine.processes)
    reason = f"{rounded(views / batch):,} steps"
    batch = chosen.add("train.batch_size", batch, reason)
    steps = max(1.0, views / batch)
    planned = f"{hours:g} h of training on {machine_in_words(machine)}, by estimate"
    enough = f"{rounded(views):,} images seen in all"
    reason = planned if possible < wanted else f"{enough}; more adds little"
    chosen.add("train.epochs", epochs, reason)
    if not chosen.has("optim.blr"):
        lr = float(f"{size.lr * math.sqrt(batch / 256):.2g}")
        chosen.add("optim.lr", lr, f"for a batch of {batch}")
    share = 0.05 if steps >= STEPS else 0.1 if steps >= FEWEST_STEPS else 0.2
    warmup = significant(share * epochs)
    chosen.add("optim.warmup_epochs", warmup, f"{share:.0%} of {rounded(steps):,} steps")


def batch_for(views: float, images: int, most: int, processes: int) -> int:
    """Power of two with enough steps, at most half of the images; a multiple of `processes`."""
    if views < FEWEST_STEPS * USUAL_BATCH:
        batch = LEAST_BATCH
    else:
        batch = min(most, max(USUAL_BATCH, power_of_two(views / STEPS)))
    batch = min(batch, power_of_two(images / 2))
    return max(1, batch // processes) * processes


def _choose_process(
    chosen: Chosen, facts: DataFacts, machine: Machine, shape: Shape, hours: float
) -> None:
    """Choose precision, memory, workers, and the intervals of records."""
    values = {one.key: one.value for one in chosen.made}
    batch, epochs = values["train.batch_size"], values["train.epochs"]
    steps = max(1, math.ceil(epochs * facts.images / batch))
    precision = "bf16" if machine.has_bf16 else "fp32"
    chosen.add("train.precision", precision, f"what {machine.gpu or 'a CPU'} computes fast")
    if machine.has_gpu:
        free = 0.8e9 * machine.gpu_memory - 16.0 * parameters(shape)
        each = activation_bytes(shape, 2 if machine.has_bf16 else 4)
        most = min(1024, power_of_two(max(1.0, free / each)))
        chosen.add("train.max_device_batch", most, f"{machine.gpu_memory:.0f} GB of memory")
        pays = machine.has_compiler and hours >= COMPILED_HOURS
        why = f"pays from {COMPILED_HOURS:g} h on" if machine.has_compiler else "no C compiler here"
        chosen.add("train.compile", pays, why)
    else:
        is_small = facts.height * facts.width <= 64**2 or machine.cores <= machine.local_processes
        reason = "decoding small images takes little" if is_small else "decodes beside the training"
        chosen.add("data.workers", 0 if is_small else 1, reason)
    chosen.add("train.checkpoint_every", between(100, steps // 20, 1000), "a twentieth of the run")
    chosen.add("log.every", between(5, steps // 100, 50), "a hundred lines of progress")
    chosen.add("log.panel_every", between(1, steps // 10, 5000), "ten panels")
    chosen.add("log.health_every", significant(epochs / 10), "ten measurements on held-out images")


def machine_in_words(machine: Machine) -> str:
    """Hardware in a few words."""
    if machine.has_gpu:
        return f"{machine.processes} x {machine.gpu}" if machine.processes > 1 else machine.gpu
    return f"{machine.cores} CPU core{'s' * (machine.cores > 1)}"


def between(least: int, number: int, most: int) -> int:
    """`number`, limited to a range."""
    return max(least, min(number, most))


def significant(number: float) -> float:
    """`number` with two significant digits, whole numbers from 10 on; above 0."""
    if number >= 10:
        return float(int(number))
    return float(f"{number:.2g}")


def rounded(number: float) -> int:
    """`number` with two significant digits, for reasons."""
    return int(float(f"{number:.2g}"))
