"""Every setting of a pretraining run: name, type, default (= the paper's recipe), meaning.

YAML files and the command line are read by `mae.settings`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _square(value: object) -> object:
    return (value, value) if isinstance(value, int) else value


Shards = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]
Size = Annotated[tuple[Positive, Positive], BeforeValidator(_square)]
Interval = tuple[float, float]


class Section(BaseModel):
    """Frozen, typed, no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataConfig(Section):
    """Which images, and how they are cut."""

    train: Shards = ()
    """WebDataset tars to train on: paths, brace patterns (`a-{000..146}.tar`), globs, or a list"""
    val: Shards = ()
    """held-out tars for the reconstruction panels (none: panels show training images)"""
    index_dir: Path | None = None
    """where shard indexes are cached (default: a folder .mae-index beside the shards)"""
    scale: Interval = (0.2, 1.0)
    """RandomResizedCrop: range of the crop's area, as a share of the image"""
    ratio: Interval = (3 / 4, 4 / 3)
    """RandomResizedCrop: range of the crop's width over its height"""
    flip: bool = True
    """flip every other crop left to right"""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """normalisation, one number per channel, for pixels in [0, 1]"""
    std: tuple[Annotated[float, Field(gt=0)], ...] = (0.229, 0.224, 0.225)
    """normalisation, one number per channel, for pixels in [0, 1]"""
    crop_pct: Share = 0.875
    """evaluation: share of the resized short side that the centre crop keeps"""
    workers: NonNegative = 4
    """decoding processes per training process (0: decode in the training process)"""


class ModelConfig(Section):
    """Encoder by its timm name, decoder by three numbers."""

    encoder: str = "vit_base_patch16_224"
    """a plain Vision Transformer of timm"""
    encoder_kwargs: dict[str, float | int | bool] = {}
    """further arguments for timm.create_model, such as embed_dim, depth, num_heads"""
    img_size: Size | None = None
    """pixels, one number or [height, width] (default: the encoder's)"""
    patch_size: Positive | None = None
    """pixels (default: the encoder's)"""
    in_chans: Positive = 3
    """image channels"""
    mask_ratio: Fraction = 0.75
    """share of the patches that is hidden"""
    norm_pix_loss: bool = True
    """predict pixels normalised within each patch"""
    decoder_embed_dim: Positive = 512
    """decoder width"""
    decoder_depth: Positive = 8
    """decoder blocks"""
    decoder_num_heads: Positive = 16
    """decoder attention heads"""


class OptimConfig(Section):
    """AdamW, linear warm-up, cosine."""

    blr: Rate = 1.5e-4
    """base learning rate per 256 images of a step"""
    lr: Rate | None = None
    """learning rate itself (default: blr * batch_size / 256)"""
    min_lr: Rate = 0.0
    """learning rate at the end of the cosine"""
    warmup_epochs: Rate = 40.0
    """epochs of linear warm-up from 0"""
    weight_decay: Rate = 0.05
    """decoupled weight decay; none on biases, norms and tokens"""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """AdamW's moments"""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon"""


class TrainConfig(Section):
    """How long, how large, how exact."""

    epochs: Annotated[float, Field(gt=0)] = 800.0
    """passes over the training images"""
    batch_size: Positive = 4096
    """images per optimizer step, over all processes"""
    max_device_batch: Positive = 256
    """images a process takes at once at most; what is missing to batch_size is accumulated"""
    num_processes: NonNegative = 0
    """refuse to start with another number of processes (0: any)"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 where the hardware has it"""
    compile: bool = False
    """torch.compile the model"""
    checkpoint_every: Positive = 500
    """optimizer steps between checkpoints"""
    keep_last: Annotated[int, Field(ge=2)] = 2
    """newest checkpoints that are kept"""
    seed: Seed = 0
    """of initialisation, order, crops and masks"""


class LogConfig(Section):
    """What is told while it runs."""

    every: Positive = 20
    """optimizer steps between progress lines and rows of metrics.jsonl"""
    panel_every: NonNegative = 1000
    """optimizer steps between reconstruction panels (0: none)"""
    panel_images: Positive = 8
    """images on a panel"""
    wandb: bool = True
    """track with Weights & Biases (offline where nobody is logged in)"""
    project: str = "mae"
    """wandb project"""


class Config(Section):
    """A pretraining run."""

    output: str = ""
    """the run's folder (default: runs/ and the name of the YAML file)"""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    log: LogConfig = LogConfig()


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}

FREE_ON_RESUME = (
    "output",
    "data.train",  # the same samples elsewhere: the checkpoint's fingerprint decides
    "data.val",
    "data.workers",
    "data.index_dir",
    "train.compile",
    "train.max_device_batch",
    "train.num_processes",
    "train.checkpoint_every",
    "train.keep_last",
)
"""Settings that do not decide what is learned: they may change between the starts of a run."""


def contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """(key, message) of settings that are fine alone but not together."""
    data, model, optim, train = config.data, config.model, config.optim, config.train
    if optim.warmup_epochs >= train.epochs:
        message = f"{optim.warmup_epochs:g}, but train.epochs is only {train.epochs:g}"
        yield "optim.warmup_epochs", message
    for key, (low, high) in (("scale", data.scale), ("ratio", data.ratio)):
        if not 0 < low <= high:
            yield f"data.{key}", f"[{low:g}, {high:g}] is no range of positive numbers"
    if data.scale[1] > 1:
        yield "data.scale", f"a crop of {data.scale[1]:g} times the image's area is impossible"
    for key, numbers in (("mean", data.mean), ("std", data.std)):
        if len(numbers) != model.in_chans:
            yield f"data.{key}", f"{len(numbers)} numbers for model.in_chans = {model.in_chans}"
    if model.decoder_embed_dim % 4 or model.decoder_embed_dim % model.decoder_num_heads:
        yield (
            "model.decoder_embed_dim",
            f"{model.decoder_embed_dim} must divide by 4 (sine-cosine positions) "
            f"and by decoder_num_heads = {model.decoder_num_heads}",
        )
    owned = {"img_size", "patch_size", "in_chans", "num_classes", "global_pool", "pretrained"}
    for key in sorted(owned & config.model.encoder_kwargs.keys()):
        yield f"model.encoder_kwargs.{key}", "is set elsewhere (model.img_size and so on)"
    if optim.lr is None and optim.blr == 0:
        yield "optim.blr", "a learning rate of 0 learns nothing"
