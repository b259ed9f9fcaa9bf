"""Settings that every run has: name, type, default (= the paper's recipe), meaning.

An objective declares further ones: see `mae.objectives`.

YAML files and the command line are read by `mae.config.loading`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from mae.config.types import (
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
)


class Part(Section):
    """One data set of a mixture."""

    shards: Shards
    """WebDataset tars, as in data.train"""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """how often it is drawn from, relative to the others"""


class DataConfig(Section):
    """Which images, in which order, and how they are cut."""

    train: Shards = ()
    """WebDataset tars to train on: paths, addresses (https, s3, gs, hf), brace patterns
    (`a-{000..146}.tar`), globs, a wids index.json, or a list of these"""
    mixture: tuple[Part, ...] = ()
    """instead of train: [{shards: …, weight: 2}, {shards: …}]; an epoch: as many as all have"""
    val: Shards = ()
    """held-out tars for panels and measurements (none: panels show training images)"""
    index_dir: Path | None = None
    """where indexes are cached (default: .mae-index beside the shards; ~/.cache/mae/index)"""
    cache_dir: Path = Path("~/.cache/mae/shards")
    """where remote shards are kept, shared by all processes of a machine"""
    cache_gb: Annotated[float, Field(gt=0)] = 100.0
    """gigabytes that cache_dir may hold; the shards used longest ago go first"""
    allow_pipe: bool = False
    """read `pipe:COMMAND` shards (runs these commands)"""
    order: Literal["global", "window", "lanes"] = "global"
    """global: shuffle over everything; window: so many shards at a time, for caches; lanes: each
    process reads a share of the shards, for many machines with remote shards"""
    window: Positive = 16
    """window and lanes: shards whose samples are shuffled among each other"""
    lanes: Positive = 64
    """lanes: streams of shards; a multiple of the number of processes, a divisor of batch_size"""
    repeats: Positive = 1
    """views of an image per decoding, each a sample of its own: less decoding, less variety"""
    max_bad: NonNegative = 100
    """different images that may turn out unreadable (and are replaced) before the run stops"""
    img_size: Size | None = None
    """pixels, one number or [height, width] (default: the encoder's)"""
    in_chans: Positive = 3
    """image channels"""
    bits: Literal[8, 16] = 8
    """bits a channel: 16 keeps 16-bit images as they are"""
    crop_on_device: bool = False
    """decode only on the CPU; crop and resize on the device (within rounding of the same pixels)"""
    decode_on_device: bool = False
    """decode JPEGs on the GPU, too (nvImageCodec; nearly the same pixels), and crop there"""
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
    own_statistics: bool = False
    """measure mean and std on the data set itself, and fill them in"""
    crop_pct: Share = 0.875
    """evaluation: share of the resized short side that the centre crop keeps"""
    workers: NonNegative = 4
    """decoding processes per training process (0: decode in the training process)"""


class InitConfig(Section):
    """Weights to start from, instead of random ones."""

    from_: Annotated[Text, Field(alias="from")] = ""
    """a run of ours, a file (.safetensors, .pth) or folder of weights, `timm:NAME` or `hf:ID`"""
    adapt_channels: bool = False
    """fit a patch projection for another number of channels (averaged, as timm does)"""
    adapt_size: bool = False
    """interpolate position embeddings of another image or patch size (as timm does)"""


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
"""those of timm that resume bit for bit, can be sharded, and skip a step on the device"""


class OptimConfig(Section):
    """Optimizer, linear warm-up, cosine."""

    name: OptimizerName = "adamw"
    """optimizer, by timm's name (sgd: Nesterov's momentum; momentum: SGD without it)"""
    blr: Rate = 1.5e-4
    """base learning rate per 256 images of a step"""
    lr: Rate | None = None
    """learning rate itself (default: blr * batch_size / 256)"""
    min_lr: Rate = 0.0
    """learning rate at the end of the cosine"""
    warmup_epochs: Rate = 40.0
    """epochs of linear warm-up from 0"""
    weight_decay: Rate = 0.05
    """weight decay, decoupled in AdamW; none on biases, norms and tokens"""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """decays of the first and second moment; the first is the momentum of SGD, LARS and RMSprop"""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """what keeps the optimizer from dividing by 0"""
    clip_grad: Rate = 0.0
    """largest norm of the gradient; longer ones are scaled down (0: never)"""


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
    compile: bool | Literal["reduce-overhead", "max-autotune"] = False
    """torch.compile the model; or in one of torch's modes: reduce-overhead (CUDA graphs, for small
    batches), max-autotune (looks for faster kernels, for minutes)"""
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = "auto"
    """the kernel of attention; auto: torch chooses (`mae bench attention` measures them)"""
    grad_checkpointing: bool = False
    """compute activations again instead of keeping them: less memory, about a third more work"""
    checkpoint_every: Positive = 500
    """steps between checkpoints"""
    checkpoint_minutes: Rate = 30.0
    """minutes between checkpoints at most (0: by steps only)"""
    keep_last: Annotated[int, Field(ge=2)] = 2
    """newest checkpoints that are kept"""
    keep_every: NonNegative = 0
    """checkpoints at multiples of so many steps are kept for good (0: none)"""
    ema: Fraction = 0.0
    """decay of a moving average of the weights, which is then evaluated and exported (0: none)"""
    timeout_minutes: Annotated[float, Field(gt=0)] = 30.0
    """a process that the others wait for longer ends the run"""
    seed: Seed = 0
    """of initialisation, order, crops and noise"""


class GuardConfig(Section):
    """Numbers gone wrong."""

    max_skipped: Positive = 20
    """steps in a row that may be skipped, their gradients not finite, before the run stops"""
    spike: Rate = 10.0
    """a loss so many robust deviations above the last steps' is told as a spike (0: none is)"""
    rollback: bool = False
    """after a spike, go back to the checkpoint before it and leave its batches out"""
    max_rollbacks: NonNegative = 5
    """so often at most"""


class LogConfig(Section):
    """What is told while it runs."""

    every: Positive = 20
    """optimizer steps between progress lines and rows of metrics.jsonl"""
    panel_every: NonNegative = 1000
    """optimizer steps between panels (0: none)"""
    panel_images: Positive = 8
    """images on a panel"""
    wandb: bool = True
    """track with Weights & Biases (offline where nobody is logged in)"""
    tensorboard: bool = False
    """write TensorBoard's files too (needs the package tensorboard)"""
    project: str = "mae"
    """wandb project"""
    health_every: Rate = 10.0
    """epochs between measurements on data.val (0: none)"""
    health_images: Positive = 1000
    """images of data.val for them, at most"""


class Config(Section):
    """Settings of a run; `mae.objectives.registry.config_type` adds an objective's own."""

    output: str = ""
    """the run's folder (default: runs/ and the name of the YAML file)"""
    objective: str = "mae"
    """what is learned"""
    data: DataConfig = DataConfig()
    model: SerializeAsAny[Section] = Section()
    init: InitConfig = InitConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    guard: GuardConfig = GuardConfig()
    log: LogConfig = LogConfig()


def sections(config: type[Config]) -> dict[str, type[Section]]:
    """The sections of settings, by name."""
    return {
        name: field.annotation
        for name, field in config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
