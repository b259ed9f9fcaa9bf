"""Settings of every run: name, type, default (= the paper's recipe), meaning.

The docstring below a setting is its text in `mae pretrain --help`.  Objectives declare further
settings (`mae.objectives`); `mae.config.loading` reads YAML files and the command line.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from mae.config.types import (
    Folder,
    Fraction,
    Interval,
    NonNegative,
    Positive,
    Rate,
    Section,
    Seed,
    Shards,
    Share,
    Size,
    Text,
    to_tuple,
)


class MixturePart(Section):
    """Data set of a mixture."""

    shards: Shards
    """WebDataset tars, written as in data.train"""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """sampling weight relative to the other data sets, greater than 0"""


class DataConfig(Section):
    """Images: shards, order, cropping, normalisation, decoding."""

    train: Shards = ()
    """training shards (WebDataset tars): paths, addresses (https, s3, gs, hf), brace patterns
    (`a-{000..146}.tar`), globs, a wids index.json, or a list of these; or a folder of images, which
    is packed once, into data.packed_dir"""
    mixture: tuple[MixturePart, ...] = ()
    """several data sets instead of data.train: [{shards: …, weight: 2}, {shards: …}]; an epoch
    draws as many samples as all of them hold"""
    val: Shards = ()
    """held-out shards, or a folder of images, for panels and evaluation (empty: panels show
    training images)"""
    val_share: Fraction = 0.0
    """where data.val is not set and data.train is a folder: share of its images that are held out
    as data.val, in [0, 1)"""
    index_dir: Path | None = None
    """folder of cached shard indexes (default: .mae-index beside local shards, ~/.cache/mae/index
    for remote ones)"""
    cache_dir: Path = Path("~/.cache/mae/shards")
    """folder for copies of remote shards, shared by all processes of a machine"""
    cache_gb: Annotated[float, Field(gt=0)] = 100.0
    """maximum size of cache_dir in gigabytes; the least recently used shards are deleted first"""
    packed_dir: Path = Path("~/.cache/mae/packed")
    """folder for the shards of folders of images, which are made anew when a folder has changed"""
    allow_pipe: bool = False
    """allow `pipe:COMMAND` shards, which run shell commands on this machine"""
    order: Literal["global", "window", "lanes"] = "global"
    """global: shuffle all samples; window: shuffle within groups of data.window shards, for shard
    caches; lanes: the same in data.lanes parallel streams, each read by one process, for many
    machines with remote shards"""
    window: Positive = 16
    """window and lanes: maximum number of shards that are shuffled together"""
    lanes: Positive = 64
    """lanes: number of parallel streams of shards, a multiple of the number of processes and a
    divisor of train.batch_size"""
    repeats: Positive = 1
    """augmented views per decoded image, each counted as a sample (less decoding, less variety);
    a divisor of train.batch_size"""
    max_bad: NonNegative = 100
    """maximum number of different unreadable images, which are replaced by others; one more stops
    the run"""
    img_size: Size | None = None
    """image size in pixels, one number or [height, width] (default: the encoder's)"""
    in_chans: Positive = 3
    """number of image channels"""
    bits: Literal[8, 16, 32] = 8
    """bits per channel: 8 or 16 (16 keeps the full depth of 16-bit images); 32: floats in .npy
    files, such as latents, which are cropped and flipped but never resized"""
    crop_on_device: bool = False
    """crop and resize on the training device, decode on the CPU (pixels equal up to rounding)"""
    decode_on_device: bool = False
    """decode JPEGs on the GPU with nvImageCodec and crop there (pixels differ slightly from the
    CPU's)"""
    scale: Interval = (0.2, 1.0)
    """RandomResizedCrop: range of the crop's area as a fraction of the image's, in (0, 1]"""
    ratio: Interval = (3 / 4, 4 / 3)
    """RandomResizedCrop: range of the crop's aspect ratio, width / height"""
    oversized: Literal["redraw", "clamp"] = "redraw"
    """random crops that do not fit into the image: drawn again, as in torchvision, or cut to the
    image, as in the linear probe of the MAE release"""
    flip: bool = True
    """flip crops left to right with probability 0.5"""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """normalisation: mean of each channel, for pixels in [0, 1] (floats: as they are)"""
    std: tuple[Annotated[float, Field(gt=0)], ...] = (0.229, 0.224, 0.225)
    """normalisation: standard deviation of each channel, for pixels in [0, 1] (floats: as they
    are)"""
    own_statistics: bool = False
    """measure mean and std on the training images instead of using the values above"""
    crop_pct: Share | None = None
    """evaluation: centre crop's side as a fraction of the resized short side, in (0, 1] (default:
    0.875 for images of up to 224 px, 1 for larger ones)"""
    workers: NonNegative | None = None
    """data workers (decoding processes) per training process; 0: decode in the training process
    (default: the cores of the machine, divided among its training processes, at most 32)"""

    @property
    def is_float(self) -> bool:
        """True where the images are arrays of floats, which are normalised where they are read."""
        return self.bits == 32

    @property
    def held_out(self) -> tuple[str, ...]:
        """Held-out data: data.val, or the folder whose share data.val_share is."""
        return self.val or (self.train if self.val_share else ())


OF_THIS_CALL = ("index_dir", "cache_dir", "cache_gb", "packed_dir", "allow_pipe")
"""settings of `data` that act on this machine: they count from the command line and the user's own
YAML file alone, never from a run folder or an export, which may come from somebody else"""


class InitConfig(Section):
    """Initial weights."""

    from_: Annotated[Text, Field(alias="from")] = ""
    """pretrained weights: a run folder, a weights file (.safetensors, .pth) or folder, `timm:NAME`
    or `hf:ID` (default: random initialisation)"""
    adapt_channels: bool = False
    """convert the patch projection where data.in_chans differs (averaged, as timm does)"""
    adapt_size: bool = False
    """interpolate position embeddings where the image or patch size differs (as timm does)"""


OptimizerName = Literal[
    "adabelief",
    "adadelta",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "adanw",
    "lamb",
    "lambc",
    "lambcw",
    "lambw",
    "larc",
    "lars",
    "lion",
    "momentum",
    "nadamw",
    "nlarc",
    "nlars",
    "radabelief",
    "radam",
    "radamw",
    "rmsprop",
    "sgd",
    "sgdw",
]
"""timm's names of the optimizers that resume bit for bit, can be sharded with FSDP2, and can skip
a step without waiting for the device"""


class OptimConfig(Section):
    """Optimizer and learning rate: linear warm-up, cosine decay."""

    name: OptimizerName = "adamw"
    """optimizer, by timm's name (sgd: with Nesterov momentum; momentum: SGD with plain momentum)"""
    blr: Rate = 1.5e-4
    """base learning rate, per 256 images of train.batch_size"""
    lr: Rate | None = None
    """peak learning rate (default: blr * batch_size / 256)"""
    min_lr: Rate = 0.0
    """final learning rate of the cosine decay"""
    warmup_epochs: Rate = 40.0
    """epochs of linear warm-up from learning rate 0 to the peak"""
    weight_decay: Rate = 0.05
    """weight decay (decoupled for adamw); not applied to biases, norms and tokens"""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """decay rates of the moment estimates, in [0, 1); the first is the momentum of sgd, momentum,
    lars and rmsprop"""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """constant in the optimizer's denominator, for numerical stability"""
    clip_grad: Rate = 0.0
    """maximum norm of the gradient; larger gradients are scaled down (0: no clipping)"""


class TrainConfig(Section):
    """Training: duration, batch size, precision, checkpoints."""

    epochs: Annotated[float, Field(gt=0)] = 800.0
    """passes over the training images; may be fractional"""
    batch_size: Positive = 4096
    """images per optimizer step, over all processes and accumulated micro-batches"""
    max_device_batch: Positive = 256
    """maximum number of images per micro-batch on a process; gradients are accumulated up to
    train.batch_size"""
    num_processes: NonNegative = 0
    """required number of processes; the run refuses to start with another (0: any)"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 where the hardware supports it, else fp32"""
    compile: bool | Literal["reduce-overhead", "max-autotune"] = False
    """compile the model with torch.compile: true, or a mode of torch: reduce-overhead (CUDA graphs,
    for small batches), max-autotune (faster kernels, minutes of compilation)"""
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = "auto"
    """attention kernel; auto: torch's choice (`mae bench attention` compares them)"""
    grad_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, about a third more computation"""
    checkpoint_every: Positive | None = None
    """optimizer steps between checkpoints (default: 500, or a fifth of a shorter run)"""
    checkpoint_minutes: Rate = 30.0
    """maximum number of minutes between checkpoints (0: by checkpoint_every alone)"""
    keep_last: Annotated[int, Field(ge=2)] = 2
    """number of newest checkpoints to keep, at least 2"""
    keep_every: NonNegative = 0
    """keep checkpoints at multiples of this number of steps permanently (0: none)"""
    ema: Fraction = 0.0
    """decay per step of an exponential moving average of the weights, in [0, 1), which is then
    evaluated and exported (0: no average)"""
    timeout_minutes: Annotated[float, Field(gt=0)] = 30.0
    """maximum number of minutes that processes wait for each other, or for data, before the run
    fails"""
    seed: Seed = 0
    """random seed of initialisation, data order, crops and objective noise, from 0 to 2^63 - 1"""


class GuardConfig(Section):
    """Training guard: skipped steps, loss spikes, rollbacks."""

    max_skipped: Positive = 20
    """number of consecutive steps skipped for non-finite gradients that stops the run"""
    spike: Rate = 10.0
    """threshold of a loss spike, in robust standard deviations above the median of the last 200
    steps (0: no detection)"""
    rollback: bool = False
    """roll back after a spike: resume from the checkpoint before it and skip its batches"""
    max_rollbacks: NonNegative = 5
    """maximum number of rollbacks per start of the run; the next spike then stops it"""
    strict: bool = False
    """end the run at the first warning of a finding, such as a collapsed codebook"""


TrackerName = Literal[
    "wandb-offline",
    "wandb",
    "tensorboard",
    "aim",
    "clearml",
    "comet_ml",
    "dvclive",
    "mlflow",
    "swanlab",
    "trackio",
]
"""trackers of mae, and those of accelerate"""
Trackers = Annotated[tuple[TrackerName, ...], BeforeValidator(to_tuple)]
"""one tracker or a list of them"""


class LogConfig(Section):
    """Logging: progress lines, panels, trackers, held-out measurements."""

    every: Positive = 20
    """optimizer steps between progress lines and rows of metrics.jsonl"""
    panel_every: NonNegative | None = None
    """optimizer steps between image panels (0: only at the end; default: 1000, or a tenth of a
    shorter run)"""
    panel_images: Positive = 8
    """number of images on a panel"""
    trackers: Trackers = ("wandb-offline",)
    """services that get metrics and pictures, by name: wandb-offline (files in RUN/wandb, nothing
    is uploaded), wandb (uploads when logged in, else the same files), tensorboard, aim, clearml,
    comet_ml, dvclive, mlflow, swanlab, trackio; []: none.  All but wandb need their package"""
    project: str = "mae"
    """project or experiment of the trackers"""
    health_every: Rate | None = None
    """epochs between evaluations on data.val (0: none; default: 10, or a fifth of a shorter run)"""
    health_start: bool = False
    """evaluate on data.val before the first step, too, and compare at the end: whether training has
    made the features of init.from better or worse"""
    health_images: Positive = 1000
    """maximum number of images of data.val per evaluation"""


class AutoConfig(Section):
    """Settings that `mae pretrain auto` and `mae finetune RUN` choose by themselves."""

    hours: Annotated[float, Field(gt=0)] | None = None
    """hours of training that `mae pretrain auto` plans for, by estimate (default: 1 without a GPU,
    24 with)"""
    chosen: dict[str, str] = Field(default_factory=dict)
    """reasons of the chosen settings, by key; a run records them"""


class Config(Section):
    """Settings of a run, without those that an objective adds.

    `mae.objectives.registry.config_type` returns the type with an objective's own sections.
    """

    output: Folder = ""
    """run folder (default: runs/ followed by the name of the YAML file)"""
    objective: str = "mae"
    """training objective, which determines the type of the model section"""
    data: DataConfig = DataConfig()
    model: SerializeAsAny[Section] = Section()
    init: InitConfig = InitConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    guard: GuardConfig = GuardConfig()
    log: LogConfig = LogConfig()
    auto: AutoConfig = AutoConfig()
    recipe: str = ""
    """recorded, never set: name of the recipe that the settings are from (empty: another file)"""


def sections(config: type[Config]) -> dict[str, type[Section]]:
    """Section types of `config` by name."""
    return {
        name: field.annotation
        for name, field in config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
