"""Training steps of vqvae, fsq, vae and kl beside plain loops.

`python -m benchmarks.autoencoder_steps`.  The references have the same convolutions and optimizer:
quantisers of vector-quantize-pytorch, a variational autoencoder written with torch.distributions,
diffusers' AutoencoderKL; a plain loop without guard, meter, per-sample noise or resumable state.
All take turns in one process.
"""

import argparse
import sys
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from benchmarks.implementations import plain_step
from mae.commands.bench.command import out_option
from mae.commands.bench.tables import write_result
from mae.commands.bench.timing import interleaved, machine, ratios, seconds_per_call, spread
from mae.commands.bench.training_step import our_step, synthetic_batch, synthetic_images
from mae.config.sections import Config
from mae.networks.latent_diffusion import LdmSettings
from mae.objectives.autoencoders.backbones import ldm_settings
from mae.objectives.registry import config_type, implementation
from mae.training.plan import build_accelerator

MEMBERS = ("vqvae", "fsq", "vae", "kl")

SMALLER = {"kl": {"width": 32, "depth": 1, "stages": 2}}
"""settings of the model that differ from the member's defaults"""


class Reference(nn.Module):
    """Plain autoencoder around a bottleneck: images → loss."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, model: Any, bottleneck: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder
        self.to_latent, self.from_latent = model.bottleneck.to_latent, model.from_latent
        self.bottleneck = bottleneck
        for name in ("pixel_scale", "pixel_shift"):
            self.register_buffer(name, getattr(model, name))

    def forward(self, images: Tensor) -> Tensor:
        """Error of the reconstruction and the bottleneck's loss."""
        pixels = images * self.pixel_scale + self.pixel_shift
        latents, loss = self.bottleneck(self.to_latent(self.encoder(pixels)))
        return (self.decoder(self.from_latent(latents)) - pixels).square().mean() + loss


class LibraryQuantizer(nn.Module):
    """Quantiser of vector-quantize-pytorch on a map of vectors."""

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """[b n gh gw] → the same, quantised, and the loss."""
        rows = latents.movedim(1, -1).flatten(1, 2)
        quantised, _, *loss = self.quantizer(rows)
        made = quantised.unflatten(1, latents.shape[2:]).movedim(-1, 1)
        return made, loss[0].sum() if loss else latents.new_zeros(())


class Reparameterised(nn.Module):
    """Gaussian bottleneck by torch.distributions."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values

    def forward(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance → a sample, and the KL divergence per value of the image."""
        mean, log_variance = numbers.chunk(2, dim=1)
        posterior = Normal(mean, (0.5 * log_variance).exp(), validate_args=False)
        prior = Normal(torch.zeros_like(mean), torch.ones_like(mean), validate_args=False)
        nats = kl_divergence(posterior, prior).flatten(1).sum(1).mean()
        return posterior.rsample(), nats / self.values


class DiffusersLoss(nn.Module):
    """Plain loss of latent diffusion's autoencoder on diffusers' own module."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, settings: LdmSettings, model: Any, weight: float) -> None:
        from diffusers import AutoencoderKL

        super().__init__()
        library: Any = AutoencoderKL
        self.model, self.weight = library(**settings.model_settings()), weight
        for name in ("pixel_scale", "pixel_shift"):
            self.register_buffer(name, getattr(model, name))

    def forward(self, images: Tensor) -> Tensor:
        """Mean absolute error, and KL divergence per value."""
        pixels = images * self.pixel_scale + self.pixel_shift
        posterior = self.model.encode(pixels).latent_dist
        errors = (self.model.decode(posterior.sample()).sample - pixels).abs()
        return errors.mean() + self.weight * posterior.kl().mean() / pixels[0].numel()


def reference(member: str, config: Config, model: Any) -> nn.Module:
    """Reference implementation of a member with the networks of `model`."""
    settings: Any = config.model
    if member == "kl":
        return DiffusersLoss(ldm_settings(config), model, settings.kl_weight)
    if member == "vae":
        values = config.data.in_chans * prod(model.img_size)
        return Reference(model, Reparameterised(values))
    import vector_quantize_pytorch as library

    if member == "vqvae":
        quantizer = library.VectorQuantize(
            dim=settings.latent_dim,
            codebook_size=settings.codebook_size,
            decay=settings.codebook_decay,
            commitment_weight=settings.commitment,
            kmeans_init=True,
            threshold_ema_dead_code=2,
            rotation_trick=False,
        )
        return Reference(model, LibraryQuantizer(quantizer))
    return Reference(model, LibraryQuantizer(library.FSQ(list(settings.levels))))


def build_steps(member: str, compile: bool, batch: int, size: int) -> dict[str, Callable]:
    """Steps of mae and of the reference, at equal sizes."""
    channels = {"in_chans": 3, "img_size": size}
    train = {"batch_size": batch, "compile": compile, "precision": "fp32", "ema": 0}
    config = config_type(member).model_validate(
        {
            "objective": member,
            "data": channels,
            "model": SMALLER.get(member, {}),
            "train": train,
        }
    )
    accelerator = build_accelerator(config.train, use_cpu=not torch.cuda.is_available())
    build = implementation(member).build
    torch.manual_seed(0)
    ours, theirs = build(config), build(config)
    given = synthetic_batch(config, ours.img_size, batch)
    images = synthetic_images(config, ours.img_size, batch).to(accelerator.device)
    other = reference(member, config, theirs)
    return {
        "mae": our_step(ours, config, given, accelerator),
        "plain loop": plain_step(other, config, images, accelerator),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure all members; prints the ratios and writes them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--members", nargs="+", choices=MEMBERS, default=MEMBERS)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--img-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=3, help="steps per round")
    parser.add_argument("--modes", nargs="+", choices=("eager", "compile"), default=["eager"])
    out_option(parser)
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows, lines = [], []
    for mode in args.modes:
        for member in args.members:
            steps = build_steps(member, mode == "compile", args.batch_size, args.img_size)
            tasks = {
                name: lambda step=step: seconds_per_call(step, args.steps, device)
                for name, step in steps.items()
            }
            seconds = interleaved(tasks, args.rounds)
            speed = spread(ratios(seconds["plain loop"], seconds["mae"]))
            medians = {name: spread(values)["median"] for name, values in seconds.items()}
            rows.append({"member": member, "mode": mode, "speed": speed, "seconds": medians})
            lines.append(
                f"{member:6} {mode:8} mae {1000 * medians['mae']:.1f} ms, plain loop "
                f"{1000 * medians['plain loop']:.1f} ms a step; speed {speed['median']:.2f} "
                f"({speed['low']:.2f}–{speed['high']:.2f})"
            )
    write_result(args.out, {"machine": machine(), "rows": rows}, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
