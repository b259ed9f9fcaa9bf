"""The pipelines that the loader is compared with: torchvision's and webdataset's; both endless."""

import io
from collections.abc import Generator

import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from mae.bench.loader import Others
from mae.bench.samples import READ_BY_ALL
from mae.config.sections import DataConfig
from mae.data.manifest import Manifest
from mae.data.shard_reader import ShardReader

SHUFFLED = 1000
"""samples that webdataset shuffles at a time"""
FOREVER = 2**40


def reference_transform(size: tuple[int, int]) -> transforms.Compose:
    """The transforms of the MAE paper's code, as everybody writes them."""
    config = DataConfig()
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                size, config.scale, config.ratio, transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(config.mean, config.std),
        ]
    )


class ReferenceViews(Dataset):
    """Bytes → PIL → torchvision's transforms, as torchvision's image folders do it."""

    def __init__(self, manifest: Manifest, size: tuple[int, int]) -> None:
        self.reader = ShardReader(manifest)
        self.transform = reference_transform(size)

    def __len__(self) -> int:
        return len(self.reader.manifest)

    def __getitem__(self, index: int) -> Tensor:
        """float32 [c h w], normalised."""
        with Image.open(io.BytesIO(self.reader.read(index))) as image:
            return self.transform(image.convert("RGB"))


def torchvision_batches(
    manifest: Manifest, size: tuple[int, int], batch_size: int, workers: int
) -> Generator[Tensor]:
    """float32 [b c h w], forever."""
    views = ReferenceViews(manifest, size)
    sampler = RandomSampler(views, num_samples=FOREVER)
    yield from DataLoader(views, batch_size, sampler=sampler, num_workers=workers)


def webdataset_samples(manifest: Manifest) -> webdataset.WebDataset:
    """Undecoded samples, shuffled as webdataset's documentation shows it, forever."""
    shards = list(map(str, manifest.shards))
    samples = webdataset.WebDataset(shards, shardshuffle=100)
    return samples.repeat().shuffle(SHUFFLED)  # pyrefly: ignore  # (the data set itself)


def webdataset_batches(
    manifest: Manifest, size: tuple[int, int], batch_size: int, workers: int
) -> Generator[Tensor]:
    """float32 [b c h w], forever."""
    views = (
        webdataset_samples(manifest)
        .decode("pil")
        .to_tuple(";".join(READ_BY_ALL))
        .map_tuple(reference_transform(size))
        .batched(batch_size)
    )
    loader = DataLoader(views, batch_size=None, num_workers=workers)  # pyrefly: ignore  # (one, too)
    for (images,) in loader:
        yield images


OTHERS = Others(
    batches={"torchvision": torchvision_batches, "webdataset": webdataset_batches},
    samples={"webdataset": webdataset_samples},
)
