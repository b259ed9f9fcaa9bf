"""Contract of an objective, the half with torch: its module and what commands need around it.

- `Objective`: model and loss.  In each micro-batch training calls `draw` (all randomness of the
  inputs) and `forward` (a pure function → `Output`), after each optimizer step `after_step`.
- `Implementation`: builds the objective and provides what differs between objectives in training,
  evaluation and export; every method but `build` has a default.

Settings, metrics and texts are declared without torch: see `mae.objectives.declaration`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.networks.vit import parameter_groups

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from mae.data.class_names import Classes
    from mae.data.images import Images
    from mae.evaluation.probing import ProbeRequest
    from mae.export.contract import Pool, Writer
    from mae.pictures.reconstruction import ReconstructionReport, ReconstructionRequest
    from mae.pretrained_weights.architecture import WeightOptions
    from mae.pretrained_weights.fit import LoadedTensors
    from mae.pretrained_weights.init_record import InitialWeights
    from mae.pretrained_weights.weight_files import Weights
    from mae.training.checkpoint.checkpoint_files import TrainingState

CAPABILITIES = (
    "encode",
    "reconstruct",
    "latents",
    "decode",
    "sample",
    "trivial_samples",
    "logits",
    "denoise",
    "image_latents",
    "patch_latents",
)
"""methods of an objective that use its weights, besides `forward`; only `encode` is required.

Their arguments: `reconstruct(images, noise)` → `Reconstruction`, `logits(images)` → class scores
[b classes], `latents(images)` → latents of whole images without noise, [b …], the input of
`decode(latents)` → images [b c h w] in [0, 1] (see `Declaration.latent_path`), `sample(seeds)` →
one such image per seed, a function of that seed alone; `sample` may take a `temperature`, by
default 1;
`trivial_samples(images, seeds)`: the same from a trivial model that is fitted to integer training
images, the baseline of `sample` (see `Declaration.trivial_samples`);
`denoise(images)`: noisy integer images of any size → clean ones [b c h w] in [0, 1];
`image_latents(images)` → `ImageLatents`, for other models to be trained on;
`patch_latents(images)` → `PatchLatents`, of sparse autoencoders.  Besides, `coding()` gives an
`ImageCoding`, for objectives with codes.
"""

Merge = Literal["sum", "rows"]
"""merge of a tensor of `Output.carry` over micro-batches and processes: "sum" adds, "rows"
concatenates along the first dimension in the order of the samples"""


class Output(NamedTuple):
    """Result of one forward pass, with the same keys in every pass."""

    losses: dict[str, Tensor]
    """means over the micro-batch times their weights, 0-d; their sum is minimised"""
    statistics: dict[str, Tensor]
    """further numbers, detached: means over the micro-batch (0-d) or sums (any shape), as
    `Declaration.statistics` declares"""
    carry: dict[str, Tensor]
    """input of `after_step` from all samples of the step, detached, such as code counts and sums"""


class Features(NamedTuple):
    """Features of whole images, for evaluation."""

    pooled: dict[str, Float[Tensor, "b d"]]
    """vectors per image, by name; the first is the default"""
    tokens: Float[Tensor, "b patches d"] | None = None
    """patch tokens after the encoder's last layer; None: the encoder has none"""


class Reconstruction(NamedTuple):
    """Reconstructed images, in the units of the source: [0, 1]."""

    pasted: Float[Tensor, "b c h w"]
    """reconstruction; where parts were hidden, with the visible parts pasted in"""
    mask: Float[Tensor, "b c h w"] | None = None
    """1 = hidden pixel, 0 = visible; None: nothing is hidden"""
    inputs: Float[Tensor, "b c h w"] | None = None
    """corrupted images that the model got, not clipped; None: it got the originals"""


class LatentArray(NamedTuple):
    """Array of each image that is stored for other models."""

    values: Tensor
    """[b …]: floats, channels first, or integer codes from 0 on"""
    what: str
    """meaning, for people"""
    num_codes: int = 0
    """number of different codes; 0: the values are no codes"""


class ImageLatents(NamedTuple):
    """Latents of images as arrays to be stored."""

    arrays: Mapping[str, LatentArray]
    """name → array; "" is the main one, "std" the standard deviation of floats"""
    scale: Mapping[str, Any] = {}
    """diffusers' settings on the scale of the latents, where others depend on them already; empty:
    to be measured"""


class PatchLatents(NamedTuple):
    """Sparse latents of patches, and the vectors that they stand for."""

    latents: Float[Tensor, "b t n"]
    """sizes, 0 where a latent is not active"""
    tokens: Float[Tensor, "b t d"]
    """vectors that the autoencoder reconstructs: tokens, or the patches' pixels"""
    again: Float[Tensor, "b t d"]
    """their reconstructions"""
    grid: tuple[int, int]
    """rows and columns of the t patches; (1, 1): latents are of whole images"""


class Probabilities(NamedTuple):
    """Probabilities of some codes of each image, given those that are known already."""

    positions: Sequence[int]
    """of the codes among all codes of an image: coarse maps first, each by rows"""
    values: Float[Tensor, "b m k"]
    """float64 on the CPU, equal in every process of the same build of torch"""


CodeSteps = Generator[Probabilities, Int[Tensor, "b m"], None]
"""yields the probabilities of further codes, and is sent these codes, until all are known"""


class ImageCoding(NamedTuple):
    """Images as codes and back, for compressed files: result of an objective's `coding()`."""

    num_codes: int
    """number of different codes in each map"""
    encode: Callable[[Shaped[Tensor, "b c h w"]], Sequence[Int[Tensor, "b _ _"]]]
    """integer images → maps of codes, the coarsest first"""
    decode: Callable[[Sequence[Int[Tensor, "b _ _"]]], Float[Tensor, "b c h w"]]
    """maps of codes → images in [0, 1]"""
    strides: Sequence[tuple[int, int]]
    """rows and columns of pixels per position of each map: sides must be multiples of the first"""
    any_size: bool
    """takes images of all such sizes, not only of `Objective.img_size`"""
    predict: Callable[[int], CodeSteps] | None = None
    """probabilities of the codes of that many images of `img_size`; None: codes are taken as
    independent"""


class StepEnd(NamedTuple):
    """Finished optimizer step, the same on all processes."""

    number: int
    """counted from 1"""
    seed: int
    """random seed of the run; derive draws by `fold(seed, Stream.AFTER_STEP, number, …)`"""
    skipped: Tensor
    """bool, 0-d, on the device: the gradient was not finite and the weights were not updated"""
    carry: dict[str, Tensor]
    """`Output.carry` of all samples of the step, merged by `Objective.merges`"""


class FirstStage(NamedTuple):
    """Frozen model that an objective is trained on; each of its runs and exports keeps a copy."""

    config: Config
    """settings of the model, without paths"""
    model: Objective
    sha256: str
    """of the weights: names, shapes and values"""
    state: TrainingState | None = None
    """training up to these weights; None: they are of others"""
    init: Mapping[str, Any] = {}
    """record of weights of others in it, as in a run's init.json; "untrained": freshly initialised
    on purpose"""
    lines: Sequence[str] = ()
    """lines for the user: counts, assumptions and the licence"""


class Objective(nn.Module, ABC):
    """Model and loss.

    All randomness of the inputs is in `draw`, one hash per sample; `forward` is pure.  The one
    exception is dropout and stochastic depth: they draw in `forward`, from generators that the
    trainer seeds for every step.  No result may depend on the split of a batch into processes and
    micro-batches.  Every trainable parameter gets a gradient in every step: DDP and resuming need
    it.  Optional methods: `CAPABILITIES`.
    """

    img_size: tuple[int, int]
    """height and width of the images in pixels"""

    first_stage: FirstStage | None = None
    """frozen model, no part of the state dict: see `Declaration.first_stage`"""

    merges: ClassVar[Mapping[str, Merge]] = {}
    """keys of `Output.carry` → their merge"""

    optional_weights: ClassVar[tuple[str, ...]] = ()
    """prefixes of tensors that `init.from` may lack, and that are left out where this model lacks
    them: parts that a later stage of training adds or drops"""

    @abstractmethod
    def draw(
        self,
        images: Shaped[Tensor, "b c h w"],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Any:
        """Draw the noise of a micro-batch: masks, crops, corruptions, mixing.

        Args:
            images: integers (uint8 or uint16), or normalised floats.
            seeds: 64-bit hash per sample; each sample's noise should depend on its own alone.
            labels: class per sample, for objectives that learn from labels; NO_LABEL: none.

        Returns:
            The noise, in any type, for `forward`.
        """

    def covering_noises(
        self, images: Shaped[Tensor, "b c h w"], seeds: Int[Tensor, " b"]
    ) -> Sequence[Any]:
        """Noises with which `reconstruct` shows each pixel once: hidden parts are disjoint.

        One where nothing is hidden.
        """
        return [self.draw(images, seeds)]

    @abstractmethod
    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: Any, progress: Float[Tensor, ""]
    ) -> Output:
        """Compute losses and statistics; a pure function of its arguments and the weights.

        `progress` is the finished share of the run, in [0, 1], on the device: for warm-ups of
        loss terms.  Do not branch on it in Python, as compiled graphs cannot.
        """

    @abstractmethod
    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Compute features of whole, uncorrupted images."""

    def encoder_module(self) -> nn.Module:
        """Module whose weights determine `encode`: their hash identifies cached features."""
        return self

    def after_step(self, step: StepEnd) -> None:
        """Update buffers after an optimizer step, such as running means and codebooks.

        Buffers must be equal on all processes afterwards: compute them from `step` alone.
        """

    def after_load(self) -> None:
        """Update what depends on the weights, after weights were loaded."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them (as in timm)."""
        for part in self.modules():
            if hasattr(part, "grad_checkpointing"):
                setattr(part, "grad_checkpointing", enable)  # noqa: B010


def total_loss(output: Output) -> Float[Tensor, ""]:
    """Sum of the losses: the quantity to minimise."""
    first, *others = output.losses.values()
    return sum(others, start=first)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Context in which autocast keeps the precision of the inputs.

    For quantisers, statistics and losses under bf16.  Does nothing on the meta device, where FLOP
    are counted: `torch.autocast` does not support it.
    """
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class HeldOut(NamedTuple):
    """Held-out images for `Implementation.measure`, which all processes call together."""

    images: Images
    config: Config
    """settings of the run"""
    device: torch.device
    process_index: int
    num_processes: int
    gather: Callable[[list[Any]], list[Any]]
    """concatenates the lists of all processes, on every process"""
    log: Callable[[str], None]
    """prints a line on the main process"""


class AdoptedModel(NamedTuple):
    """Model built for weights of others, with all of them loaded."""

    config: Config
    """settings of the model and its images; the others are defaults"""
    objective: Objective
    parts: Mapping[str, LoadedTensors]
    """name of a part of the model → its loaded tensors"""
    skipped: Mapping[str, str]
    """name of an unused tensor in the source → reason"""
    notes: Sequence[str] = ()
    """lines for the user on the loaded weights"""
    assumed: Sequence[str] = ()
    """assumptions, each with the option that sets it"""
    has_decoder: bool = True
    """no part of the objective is absent"""
    is_probe: bool = False
    """a head on an encoder that it was not trained with"""


class Implementation(ABC):
    """Half of an objective that needs torch, imported when a command needs it."""

    exports: ClassVar[Mapping[str, Writer]] = {}
    """writers of `mae export` by format; one of the core's names replaces the core's writer"""

    @abstractmethod
    def build(self, config: Config) -> Objective:
        """Build the objective from the settings, initialised from torch's default generator."""

    def parameter_groups(self, objective: Objective, config: Config) -> list[dict[str, Any]]:
        """Parameter groups of the optimizer (default: no weight decay for vectors).

        `lr_scale` in a group multiplies the learning rate.
        """
        return parameter_groups(objective, config.optim.weight_decay)

    def check_held_out(self, config: Config, images: Images) -> None:  # noqa: B027  # optional
        """Check the held-out images before training.

        Raises UserError where `measure` cannot use them.
        """

    def measure(self, objective: Objective, held_out: HeldOut) -> Mapping[str, Any] | None:
        """Evaluate on held-out images: a row of health.jsonl.

        None: the core evaluates the health of the features.
        """
        return None

    def probe(self, request: ProbeRequest) -> Mapping[str, Any]:
        """Train and test a probe on frozen encoders, for objectives that are probes.

        Returns the report, a JSON object.
        """
        raise UserError("this objective is no probe")

    def panel(
        self,
        objective: Objective,
        images: Tensor,
        seeds: Tensor,
        title: str,
        names: Sequence[str] = (),
    ) -> Image.Image | None:
        """Draw a panel of the training's state, from the same images and seeds each time.

        `names`: key and class of each image.

        None: the core draws a panel of `Objective.reconstruct`, if the objective has it.
        """
        return None

    def reconstruct(
        self, objective: Objective, request: ReconstructionRequest
    ) -> ReconstructionReport | None:
        """Draw the sheet of `mae reconstruct` and compute its figures.

        None: the core does both from `Objective.reconstruct`.  Raises UserError for options that
        do not apply.
        """
        return None

    def load_initial(self, objective: Objective, config: Config) -> InitialWeights | None:
        """Load the weights that `config.init` names into a fresh objective.

        None: the core loads all weights, from a run of the same objective or its plain export.
        Raises UserError where they cannot be read or do not fit.
        """
        return None

    def adopt(self, weights: Weights, options: WeightOptions) -> AdoptedModel | None:
        """Build the model that holds `weights`, whose settings are not recorded.

        None: they are not of this objective.  Raises UserError where a tensor is missing, unknown
        or does not fit, or a property of the weights is not known.
        """
        return None

    def choose_pool(self, objective: Objective, chosen: Pool | None) -> Pool | None:
        """Pooling of exported timm encoders; `chosen` is the option --pool.

        None: the class token where there is one, else the mean.  Raises UserError where the
        objective requires another than `chosen`.
        """
        return chosen

    def after_resize(  # noqa: B027  # optional
        self, objective: Objective, old_grid: tuple[int, int]
    ) -> None:
        """Resize the other modules after the timm encoder was resized.

        `old_grid`: rows and columns of patches before.
        """

    def classes(self, config: Config, run: Path) -> Classes | None:
        """Classes in the order of the logits (default: none); `run` is the run folder."""
        return None
