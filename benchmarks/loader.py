"""Our loader compared with torchvision's and webdataset's pipelines: `python -m benchmarks.loader`.

The other pipelines end in normalised float32 batches, as they are commonly written; ours ends in
uint8 and normalises on the device.
"""

import argparse
import io
import sys
from collections.abc import Generator, Sequence

import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from mae.base.exit_status import exit_code
from mae.commands.bench.command import loader_options
from mae.commands.bench.loader import Others, measure_loader
from mae.commands.bench.pipeline import READ_BY_ALL
from mae.config.sections import DataConfig
from mae.data.manifest import Manifest
from mae.data.shard_reader import ShardReader

SHUFFLE_BUFFER = 1000
"""samples in webdataset's shuffle buffer"""
FOREVER = 2**40


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loader",
        description=(__doc__ or "").partition(":")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    loader_options(parser)
    args = parser.parse_args(argv)
    return exit_code(lambda: measure_loader(args, OTHERS), "benchmarks")


def reference_transform(size: tuple[int, int]) -> transforms.Compose:
    """Transforms of the MAE paper's code; `size`: (height, width)."""
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
    """Views decoded by PIL and transformed by torchvision, as its image folders do it."""

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
    """Batches of torchvision's pipeline, float32 [b c h w], without end."""
    views = ReferenceViews(manifest, size)
    sampler = RandomSampler(views, num_samples=FOREVER)
    yield from DataLoader(views, batch_size, sampler=sampler, num_workers=workers)


def webdataset_samples(manifest: Manifest) -> webdataset.WebDataset:
    """Undecoded samples, shuffled as in webdataset's documentation, without end."""
    shards = list(map(str, manifest.shards))
    samples = webdataset.WebDataset(shards, shardshuffle=100)
    return samples.repeat().shuffle(SHUFFLE_BUFFER)  # pyrefly: ignore  # (the data set itself)


def webdataset_batches(
    manifest: Manifest, size: tuple[int, int], batch_size: int, workers: int
) -> Generator[Tensor]:
    """Batches of webdataset's pipeline, float32 [b c h w], without end."""
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


if __name__ == "__main__":
    sys.exit(main())
