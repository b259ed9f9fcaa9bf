"""Data sets, and the rows of their tables."""

from typing import NamedTuple

from torch import Tensor

from mae.config.sections import Config
from mae.data.opening import open_images
from mae.data.transform import stack
from mae.data.views import CentredViews

FITTED = 4000
"""maximum number of training images that baselines are fitted on"""


class DataSet(NamedTuple):
    """Settings of all runs on a data set, and its rows."""

    settings: list[str]
    rows: dict[str, list[str]]
    """row → overrides of the member's recipe; `vqvae/plain` is a variant of member vqvae"""
    tested: int
    """number of test images"""


DATA_SETS = {
    "digits": DataSet(
        [
            "data.img_size=16",
            "data.in_chans=1",
            "data.mean=[0.305]",
            "data.std=[0.376]",
            "data.flip=false",
            "train.batch_size=32",
            "train.epochs=15",
        ],
        {
            "ae": ["model.latent_dim=16", "train.epochs=20"],
            "dae": ["model.strength=0.196"],
            "sparse": ["model.latent_dim=128", "model.k=8", "model.aux_k=32", "train.epochs=20"],
            "sparse/no-aux": [
                "model.latent_dim=128",
                "model.k=8",
                "model.aux_weight=0",
                "train.epochs=20",
            ],
            "vae": ["model.latent_dim=16", "train.epochs=20"],
            "ae/8": ["model.latent_dim=8", "train.epochs=20"],
            "vae/8": ["model.latent_dim=8", "train.epochs=20"],
            "aae": ["model.latent_dim=8", "train.epochs=20"],
            "beta_vae/20": ["model.latent_dim=16", "model.beta=20", "train.epochs=20"],
            "beta_vae/100": ["model.latent_dim=16", "model.beta=100", "train.epochs=20"],
            "ladder": ["model.width=8", "train.epochs=10"],
            "vae/flat": ["model.width=8", "model.latent_dim=80", "train.epochs=10"],
            "vqvae": ["model.codebook_size=128"],
            "vqvae2": ["model.codebook_size=128", "model.width=8", "train.epochs=10"],
            "vqvae/one-level": ["model.codebook_size=430", "model.width=16", "train.epochs=10"],
            "vqvae/plain": [
                "model.codebook_size=128",
                "model.kmeans_start=false",
                "model.revive_below=0",
            ],
            "fsq": ["model.levels=[5,5,5]", "model.depth=1"],
            "prior": ["model.dim=128", "model.depth=4", "train.epochs=6"],
            "prior/vqvae2": ["model.dim=128", "model.depth=4", "train.epochs=6"],
            "prior/masked": [
                "model.kind=masked",
                "model.dim=128",
                "model.depth=4",
                "train.epochs=6",
            ],
        },
        500,
    ),
    "cifar10": DataSet(
        ["train.epochs=2"],
        {
            "ae": ["model.latent_dim=64"],
            "dae": ["model.strength=0.098"],
            "sparse": [],
            "sparse/no-aux": ["model.aux_weight=0"],
            "vae": ["model.latent_dim=64"],
            "beta_vae": [],
            "vqvae": [],
            "vqvae/plain": ["model.kmeans_start=false", "model.revive_below=0"],
            "fsq": ["model.depth=1"],
            "prior": ["model.dim=128", "model.depth=4"],
        },
        1000,
    ),
    "clothing": DataSet(
        [
            "data.img_size=64",
            "data.mean=[0.6,0.58,0.56]",
            "data.std=[0.26,0.26,0.27]",
            "train.epochs=4",
            "train.batch_size=32",
        ],
        {
            "ae": ["model.latent_dim=64", "model.stages=3"],
            "dae": ["model.strength=0.098"],
            "vqvae": ["model.stages=3"],
            "kl": [
                "data.mean=[0.5,0.5,0.5]",
                "data.std=[0.5,0.5,0.5]",
                "data.scale=[1,1]",
                "model.width=16",
                "model.depth=1",
                "optim.lr=2e-3",
                "optim.betas=[0.9,0.99]",
                "optim.warmup_epochs=0.1",
                "train.batch_size=8",
                "train.ema=0.98",
            ],
        },
        372,
    ),
}


class Images(NamedTuple):
    """Training and test images in [0, 1]."""

    train: Tensor
    """[n c h w], at most FITTED, spread over the training set"""
    test: Tensor
    """[n c h w]"""


def load_images(config: Config, tested: int) -> Images:
    """Centred views of training images and of the first `tested` spread over the test set."""
    assert config.data.img_size is not None

    def load(shards: tuple[str, ...], key: str, limit: int) -> Tensor:
        images = open_images(shards, key, config)
        views = CentredViews(images, config.data.img_size, config.data.crop_pct)
        step = max(1, len(images.manifest) // limit)
        numbers = range(0, min(len(images.manifest), limit * step), step)
        return stack([views.view(number) for number in numbers]).float() / 255

    data = config.data
    return Images(load(data.train, "data.train", FITTED), load(data.val, "data.val", tested))
