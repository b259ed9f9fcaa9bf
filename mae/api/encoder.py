"""A trained model in Python: vectors, class scores, reconstructions and samples of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from mae.api.frozen_model import Array, Bad, FrozenModel
from mae.api.images import Picture, Pictures
from mae.api.settings import File, as_call
from mae.base.errors import UserError
from mae.base.output import print_error
from mae.commands.measured_images import noise_seeds
from mae.config.sections import Config
from mae.evaluation.encoders import TOKENS, FrozenEncoder, frozen_encoder, open_encoder
from mae.evaluation.features import BATCH, blank_vectors, encoder_outputs, require_finite
from mae.evaluation.timm_models import is_export, pools_by_attention
from mae.networks.patches import affine_of, normalize_images
from mae.networks.vit import timm_encoder
from mae.objectives.registry import declaration
from mae.pictures.reconstruction import reconstructions
from mae.pictures.samples import draw_samples
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.opened import OpenedModel, is_hub, model_classes, open_model
from mae.training.evaluator import draw_panel

PANEL_IMAGES = 64
"""maximum number of images on a panel"""


class Reconstructions(NamedTuple):
    """Reconstructed images, as arrays with the channels last, values in [0, 1]."""

    images: Array
    """[n h w c]; where parts were hidden, with the visible parts pasted in"""
    mask: Array | None
    """[n h w c], 1 = hidden, 0 = visible; None: nothing was hidden"""
    inputs: Array | None
    """[n h w c], corrupted images that the model got; None: it got the originals"""


def load(
    source: File,
    *,
    device: str = "auto",
    num_heads: int | None = None,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Encoder:
    """Load a trained model.

    ```python
    encoder = mae.load("runs/tiles")
    vectors = encoder.embed("photos/")  # float32 [n width]
    ```

    Args:
        source: a run or its folder; one of its checkpoints; an export (timm, plain); a file of
            weights (.safetensors, .pth); `timm:NAME` or `hf:ID`: whatever `init.from` takes.
        device: `cpu`, `cuda`, `cuda:1`; auto: a GPU where there is one.
        num_heads: attention heads, for a file of weights that does not record them.
        mean: mean of each channel of pixels in [0, 1], for such a file (default: ImageNet's).
        std: standard deviation of each channel, likewise.

    Returns:
        The model in evaluation mode.  Counts, assumptions and the licence of weights of others are
        printed to standard error.

    Raises:
        UserError: where there is no model, no checkpoint yet, or a file is damaged or does not fit.
    """
    place = Path(source)
    if not is_hub(place):
        place = place.expanduser()
        if not place.exists():
            raise UserError(f"{source}: no such run, export or file of weights")
    options = WeightOptions(num_heads=num_heads, mean=tuple(mean), std=tuple(std))
    try:
        if is_export(place) or pools_by_attention(place):
            loaded, opened = open_encoder(place, options), None
            config, module, encoder = loaded.config, loaded.module, loaded.encoder
            lines = loaded.lines
        else:
            opened = open_model(place, options, with_decoder=True)
            config, module, lines = opened.config, opened.objective, opened.lines
            encoder = frozen_encoder(opened, opened.objective)
        for line in lines:
            print_error(f"weights {line}")
        return Encoder(place, config, module.eval(), encoder, opened).to(device)
    except UserError as error:
        raise as_call(error) from None


class Encoder(FrozenModel):
    """A trained model, as `mae.load` returns it: images → vectors, and what else it can do.

    Images are given as `embed` describes, and read by the rule of the run's evaluations: resized,
    the centre cropped, channels and bits checked.  A method that the model's objective lacks raises
    UserError, which names the objectives that have it.

    Attributes:
        source: where the model is from.
        config: settings of the run; of an export those on images alone.
        img_size: height and width of the model's images in pixels.
        in_chans: number of their channels.
        bits: bits of each channel: 8, 16, or 32 for floats.
        features: names of the vectors per image; the first is the default of `embed`.
        patch_size: height and width of a patch in pixels; None: the model has no patch tokens.
        classes: names of the classes, in the order of `predict`; empty: no classifier.
        objective: the objective's module (`mae.objectives.base.Objective`), with all its methods;
            None for exports for timm.
        device: device of the model.
    """

    def __init__(
        self,
        source: Path,
        config: Config,
        module: nn.Module,
        encoder: FrozenEncoder,
        opened: OpenedModel | None,
    ) -> None:
        """Wrap a model in evaluation mode; `opened` is None for an export for timm."""
        super().__init__(source, config, module, encoder, opened)
        self.img_size = encoder.img_size
        self.in_chans, self.bits = config.data.in_chans, config.data.bits
        outputs = encoder_outputs(module, encoder.encode, encoder.img_size, config)
        self.features, self.patch_size = outputs.vectors, outputs.patch_size
        known = model_classes(opened, source) if opened else None
        self.classes: list[str] = known.shown() if known else []

    @property
    def model(self) -> Any:
        """Module of the encoder, for code of one's own; it takes what `transform` returns.

        Timm's model where the encoder is one (`encoder.model.forward_features(batch)`), else the
        objective (`encoder.model.encode(batch)`).
        """
        return timm_encoder(self._module) or self._module

    @property
    def width(self) -> int:
        """Length of the default vector."""
        return blank_vectors(self._encoder, self.in_chans, self.device)[self.features[0]].shape[1]

    def to(self, device: str) -> Encoder:
        """Move the model to a device, as `mae.load` takes it; returns itself.

        Raises:
            UserError: where torch cannot use the device.
        """
        self._move(device)
        return self

    def transform(self, image: Picture) -> Tensor:
        """Image → the model's input: float32 [c h w], resized, cropped and normalised.

        It serves as the transform of a torch data set; batches of it go into `model`, and into
        `embed` and the other methods.

        Args:
            image: as an image of `embed`.

        Raises:
            UserError: where the image cannot be used.
        """
        data, view = self.config.data, self._reader.view(image)
        affine = affine_of(data.mean, data.std, data.in_chans, data.bits)
        return normalize_images(view[None], affine)[0]

    def embed(
        self,
        images: Pictures,
        *,
        feature: str | None = None,
        batch_size: int = BATCH,
        workers: int | None = None,
        bad: Bad = "raise",
        device: str | None = None,
    ) -> Array:
        """Vectors of images: those of `mae features`, before these are rounded to 16 bits.

        Args:
            images: a folder (its image files, also in folders inside, sorted by path), an image
                file, a pattern such as `photos/*.png`, or shards (in their order); or a list or any
                iterable of images: paths, PIL images, arrays [h w], [h w c] or [c h w] and integer
                tensors [c h w] of uint8 or uint16, contents of files as bytes; an array [n h w c];
                a tensor [n c h w]; or tensors that `transform` returned.  Iterables are read as
                they are needed: no more than a batch of images is held.
            feature: name of the vector, one of `features`; or `tokens`: all patch tokens,
                [n patches width].
            batch_size: images that are encoded at a time.
            workers: processes that decode files and shards; 0: none (default: none up to 512
                images, else one per core).
            bad: an image that cannot be used is an error that names it, or, with "nan", a row of
                NaN, so that rows and images correspond.
            device: device to move the model to.

        Returns:
            float32 [n width], row by row in the order of the images; [0 width] of no images.

        Raises:
            UserError: where an image or a shard cannot be used, the model has no such feature, or
                its outputs are not finite.
        """
        known = [*self.features, *([TOKENS] if self.patch_size else [])]
        name = feature or next(iter(self.features), "")
        if name not in known:
            raise UserError(f"feature: no {name!r}; {self.source} has {', '.join(known) or 'none'}")
        if device is not None:
            self.to(device)

        def compute(views: Tensor, numbers: list[int]) -> Tensor:
            found = self._encoder.encode(self._unnormalised(views))[name]
            require_finite(found, name)
            return found

        return self._rows(compute, images, batch_size, workers, bad)

    def predict(
        self,
        images: Pictures,
        *,
        batch_size: int = BATCH,
        workers: int | None = None,
        bad: Bad = "raise",
    ) -> Array:
        """Class probabilities of a classifier, float32 [n classes]; `classes` names them.

        Args:
            images: as those of `embed`.
            batch_size: images that are classified at a time.
            workers: as of `embed`.
            bad: as of `embed`.

        Raises:
            UserError: where an image cannot be used, or the model is no classifier.
        """
        logits = self._capability("logits", "class scores")

        def compute(views: Tensor, numbers: list[int]) -> Tensor:
            return logits(views).float().softmax(dim=1)

        return self._rows(compute, images, batch_size, workers, bad)

    def reconstruct(
        self, images: Pictures, *, seed: int = 0, batch_size: int = BATCH
    ) -> Reconstructions:
        """Images as the model reconstructs them, of what the objective hides or distorts.

        Args:
            images: as those of `embed`; their reconstructions are held in memory, all of them.
            seed: of the masks or other noise; those of an image depend on its place, too.
            batch_size: images at a time.

        Raises:
            UserError: where an image cannot be used, or the objective reconstructs nothing.
        """
        self._capability("reconstruct", "reconstructions")
        assert self.objective is not None
        pasted, masks, inputs = [self._no_images()], list[Array](), list[Array]()
        for views, numbers in self._views(images, batch_size):
            seeds = noise_seeds(seed, numbers, self.device)
            made = reconstructions(self.objective, views, seeds)
            pasted.append(_channels_last(made.pasted))
            masks += [] if made.mask is None else [_channels_last(made.mask)]
            inputs += [] if made.inputs is None else [_channels_last(made.inputs)]
        return Reconstructions(
            np.concatenate(pasted),
            np.concatenate(masks) if masks else None,
            np.concatenate(inputs) if inputs else None,
        )

    def panel(self, images: Pictures, *, seed: int = 0, title: str = "") -> Image.Image:
        """Picture of up to 64 images and what the model makes of them, as training draws it.

        Args:
            images: as those of `embed`.
            seed: of the masks or other noise.
            title: line above the picture.

        Raises:
            UserError: where there is no image or more than 64, one cannot be used, or the
                objective draws nothing.
        """
        drawn = None
        if self.objective is not None:
            found = self._views(images, PANEL_IMAGES, PANEL_IMAGES)
            if not found:
                raise UserError("images: none: a picture needs at least one")
            seeds = noise_seeds(seed, [n for _, some in found for n in some], self.device)
            views = torch.cat([views for views, _ in found])
            drawn = draw_panel(self.config, self.objective, views, seeds, title)
        if drawn is None:
            self._capability("reconstruct", "reconstructions")
        assert drawn is not None
        return drawn

    def latents(self, images: Pictures, *, batch_size: int = BATCH) -> Array:
        """Latents of an autoencoder, without noise, float32 [n …]: the input of `decode`.

        Args:
            images: as those of `embed`.
            batch_size: images at a time.

        Raises:
            UserError: where an image cannot be used, or the objective has no latents.
        """
        latents = self._capability("latents", "latents")
        return self._rows(lambda views, _: latents(views), images, batch_size)

    def decode(self, latents: npt.ArrayLike | Tensor, *, batch_size: int = BATCH) -> Array:
        """Images of latents, float32 [n h w c] in [0, 1].

        Args:
            latents: [n …], as `latents` returns them.
            batch_size: images at a time.

        Raises:
            UserError: where the latents have another shape, or the objective has none.
        """
        decode = self._capability("decode", "latents to decode")
        given = torch.as_tensor(np.asarray(latents, np.float32))
        shape = self.latents([]).shape[1:]
        if given.shape[1:] != shape:
            wanted = ", ".join(map(str, ["n", *shape]))
            raise UserError(f"latents: of shape {list(given.shape)}: [{wanted}] expected")
        with torch.no_grad():
            parts = [
                _channels_last(decode(part.to(self.device)))
                for part in given.split(batch_size)
                if len(part)
            ]
        return np.concatenate([self._no_images(), *parts])

    def sample(self, count: int, *, seed: int = 0) -> Array:
        """New images of a generative model, those of `mae sample`; float32 [count h w c] in [0, 1].

        Args:
            count: number of images.
            seed: each image is a function of the seed and its number.

        Raises:
            UserError: where the objective has no samples.
        """
        self._capability("sample", "samples")
        assert self.objective is not None
        if reason := declaration(self.config.objective).why_no_samples(self.config):
            raise UserError(f"{self.source}: {reason}")
        parts = draw_samples(self.objective, count, seed, str(self.device)) if count else []
        return np.concatenate([self._no_images(), *map(_channels_last, parts)])[:count]

    def __repr__(self) -> str:
        height, width = self.img_size
        known = f", {len(self.classes)} classes" if self.classes else ""
        images = f"images {height} x {width}, {self.in_chans} channels of {self.bits} bits"
        named = self.config.objective if self.objective is not None else "export for timm"
        features = ", ".join(self.features) or "none"
        return f"Encoder({self.source}: {named}, {images}, features {features}{known})"

    def _unnormalised(self, views: Tensor) -> Tensor:
        """Views as the frozen encoder takes them; that of an export for timm normalises itself."""
        if self.objective is not None or not views.is_floating_point():
            return views
        data = self.config.data
        mean, std = (torch.tensor(v).view(-1, 1, 1).to(views) for v in (data.mean, data.std))
        return views * std + mean


def _channels_last(images: Tensor) -> Array:
    """Tensor [n c h w] as an array [n h w c]."""
    return images.float().cpu().movedim(1, -1).numpy()
