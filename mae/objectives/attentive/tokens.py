"""Tokens of a data set, cached or encoded in every epoch, and the stream of training batches."""

from collections.abc import Callable, Container, Generator, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.base.tensor_hashing import as_tensor
from mae.config.sections import Config
from mae.data.batch import Batch, BatchSharding, step_names
from mae.data.images import Images
from mae.data.joined_manifests import select
from mae.data.manifest import Manifest
from mae.data.order import Order
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.data.worker_loader import load_in_workers
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.features import require_finite
from mae.evaluation.features_file import FeatureSet
from mae.evaluation.usable_samples import UsableSamples
from mae.storage.cache import ShardCache

Rows = npt.NDArray[np.int64]

CPU = torch.device("cpu")


class Tokens(Protocol):
    """Tokens of a data set, a row for each image that can be decoded."""

    samples: Rows
    """[n] number of each row's image in the manifest"""
    skipped: list[str]
    """error of each image that cannot be decoded"""
    workers: int
    """number of worker processes for `inputs`"""

    @property
    def inputs(self) -> Callable[[Rows], Tensor]:
        """Function of rows → tokens [len(rows) t d] or images, on the CPU: input of the probe."""
        ...

    def load(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield tokens, float32 [len(rows) t d], of each of `batches`: class token, all patches."""
        ...


class CachedTokens:
    """Tokens from a file of features."""

    def __init__(self, features: FeatureSet, device: torch.device | str) -> None:
        self.features, self.device, self.workers = features, device, 0
        self.samples, self.skipped = features.samples, features.dropped()
        self.inputs = self._tokens

    def _tokens(self, rows: Rows) -> Tensor:
        names = {"cls", TOKENS} & self.features.vectors.keys()
        return joined({name: self._read(name, rows) for name in names})

    def load(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Tokens of each of `batches`: see `Tokens`."""
        for rows in batches:
            yield self.inputs(rows).to(self.device).float()

    def _read(self, name: str, rows: Rows) -> Tensor:
        """Read rows of the file in ascending order, and return them in the order of `rows`."""
        order = np.argsort(rows)
        values = torch.from_numpy(self.features.vectors[name][rows[order]])
        inverse = torch.empty(len(rows), dtype=torch.int64)
        inverse[torch.from_numpy(order)] = torch.arange(len(rows))
        return values[inverse]


class EncodedTokens:
    """Tokens that are encoded from the images each time."""

    def __init__(
        self,
        encoder: FrozenEncoder,
        images: Images,
        device: torch.device | str,
        workers: int,
        usable: UsableSamples,
    ) -> None:
        """Encode `images` on `device`; `usable` names those that can be decoded."""
        self.encoder, self.device, self.workers = encoder, device, workers
        self.views = CentredViews(images, encoder.img_size, encoder.crop_pct)
        self.samples, self.skipped = usable
        self.inputs = _Views(self.views, self.samples)

    def load(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Tokens of each of `batches`: see `Tokens`."""
        numbers = [self.samples[rows].tolist() for rows in batches]
        for images in load_in_workers(self.views, numbers, self.workers):
            with torch.no_grad():
                found = self.encoder.encode(images.to(self.device))
                # Half precision as in the cache, so that both give the same probe.
                halves = joined(found).half()
                require_finite(halves, TOKENS)
                yield halves.float()


class _Views:
    """Centred views of rows: a picklable function for worker processes, without the encoder."""

    def __init__(self, views: CentredViews, samples: Rows) -> None:
        self.views, self.samples = views, samples

    def __call__(self, rows: Rows) -> Tensor:
        return stack([self.views.view(sample) for sample in self.samples[rows].tolist()])


def joined(vectors: dict[str, Tensor]) -> Tensor:
    """Concatenate the class token, if there is one, and the patch tokens; [b t d]."""
    first = [vectors["cls"][:, None]] if "cls" in vectors else []
    return torch.cat([*first, vectors[TOKENS]], dim=1)


class TokenBatches(Dataset[Batch[Tensor] | UserError]):
    """Positions of the stream → Batch."""

    def __init__(
        self, inputs: Callable[[Rows], Tensor], rows: Rows, manifest: Manifest, order: Order
    ) -> None:
        self.inputs, self.rows, self.manifest, self.order = inputs, rows, manifest, order

    def __getitem__(self, index: range) -> Batch[Tensor] | UserError:
        """The batch; a UserError comes back as a value, whole, where raising would wrap it."""
        place = self.order(np.arange(index.start, index.stop))
        try:
            inputs = self.inputs(self.rows[place.sample])
        except UserError as error:
            return error
        return Batch(
            images=inputs,
            seeds=as_tensor(fold(self.order.seed, Stream.OBJECTIVE, place.view, place.sample)),
            samples=torch.from_numpy(place.sample),
            labels=torch.from_numpy(self.manifest.label[place.sample].astype(np.int64)),
            bad=[],
        )


class TokenData(NamedTuple):
    """Training source of tokens: each row once per epoch, in the order of `order`."""

    manifest: Manifest
    """manifest of the images of these rows"""
    order: Order
    dataset: TokenBatches
    workers: int
    cache: ShardCache | None

    def names(self, step: int, batch_size: int) -> list[str]:
        """Names, `shard: key KEY`, of the samples of optimizer step `step` (counted from 1)."""
        return step_names(self.manifest, self.order, step, batch_size)

    def images(self, config: Config) -> Images:
        """Images of the rows, by number."""
        return Images(self.manifest, config.data.in_chans, config.data.bits, self.cache)

    def batches(
        self,
        config: Config,
        sharding: BatchSharding,
        img_size: tuple[int, int],
        first: int,
        last: int,
        skipped: Container[int] = (),
        device: torch.device = CPU,
    ) -> Generator[Batch[Tensor]]:
        """Micro-batches of this process for steps first + 1 to last, without the `skipped` ones."""
        positions = sharding.micro_batches(first, last, skipped)
        return load_in_workers(self.dataset, positions, self.workers)


def token_data(tokens: Tokens, rows: Rows, images: Images, seed: int) -> TokenData:
    """Training source of some rows of the tokens of `images`."""
    manifest = select(images.manifest, tokens.samples[rows])
    order = Order(seed, [np.array([len(rows)])])
    dataset = TokenBatches(tokens.inputs, rows, manifest, order)
    return TokenData(manifest, order, dataset, tokens.workers, images.reader.cache)
