import torch
from torch import nn

from mae.base.tensor_hashing import counters
from mae.objectives.base import Features, Objective, Output, full_precision
from mae.objectives.capabilities import Reconstruction
from mae.objectives.implementation import Implementation


class Toy(Objective):
    """Variational autoencoder: noise per sample, KL warm-up, running mean of latents."""

    merges = {"latents": "sum", "first": "rows"}

    def __init__(self, config):
        super().__init__()
        self.img_size = config.data.img_size
        self.beta, self.white = config.model.beta, 2**config.data.bits - 1
        channels, (h, w) = config.data.in_chans, self.img_size
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 8, 4, 4), nn.GELU(), nn.Flatten(), nn.Identity()
        )
        width = 8 * (h // 4) * (w // 4)
        self.encoder[3] = nn.Linear(width, 2 * config.model.latents)
        self.decoder = nn.Linear(config.model.latents, channels * h * w)
        self.register_buffer("center", torch.zeros(config.model.latents))
        self.register_buffer("first", torch.zeros(config.model.latents))

    def pixels(self, images):
        if images.is_floating_point():
            return images
        values = images.to(torch.int32) if images.dtype == torch.uint16 else images
        return values.to(self.decoder.weight.dtype) / self.white

    def draw(self, images, seeds, labels=None):
        words = counters(seeds, self.center.numel())
        uniform = (words.bitwise_and((1 << 24) - 1).to(self.center.dtype) + 0.5) / (1 << 24)
        return torch.erfinv(2 * uniform - 1) * 2**0.5

    def forward(self, images, noise, progress):
        pixels = self.pixels(images)
        with full_precision(images.device):
            mean, log_variance = self.encoder(pixels).chunk(2, dim=1)
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        latents = mean + noise * (0.5 * log_variance).exp()
        error = (self.decoder(latents).view_as(pixels) - pixels).square().mean()
        weight = self.beta * (2 * progress).clamp(max=1) / pixels[0].numel()
        used = torch.histc(mean.detach().float(), 4, min=-2, max=2)
        return Output(
            {"error": error, "kl": weight * kl.mean()},
            {"nats": kl.detach().mean(), "used": used},
            {"latents": mean.detach().sum(dim=0), "first": mean.detach()},
        )

    def encode(self, images):
        return Features({"latents": self.encoder(self.pixels(images)).chunk(2, dim=1)[0]})

    def decode(self, latents):
        return self.decoder(latents).unflatten(1, (-1, *self.img_size))

    @torch.no_grad()
    def reconstruct(self, images, noise):
        return Reconstruction(self.decode(self.encode(images).pooled["latents"]).clamp(0, 1))

    @torch.no_grad()
    def after_step(self, step):
        first = step.carry["first"]
        center = self.center.lerp(step.carry["latents"] / len(first), 0.1)
        self.center.copy_(torch.where(step.skipped, self.center, center))
        self.first.copy_(torch.where(step.skipped, self.first, first[0]))


class ToyImplementation(Implementation):
    def build(self, config):
        return Toy(config)


IMPLEMENTATION = ToyImplementation()
