"""What data-parallel training sends, and how much of it the step has to wait for.  Pure functions.

A model of large messages: bytes over bandwidth, and a latency for each collective.  Backward is
two thirds of a step, forward one third.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

FORWARD, BACKWARD = 1 / 3, 2 / 3
"""of the computing of a step: the backward pass has twice the matrix products"""

FLOAT = 4
"""bytes: weights and gradients are fp32, whatever autocast computes in"""

BUCKET = 25 * 2**20
"""bytes of gradients that DDP sends at a time (its default)"""


class Sizes(NamedTuple):
    """Trained parameters of a model."""

    encoder: int
    decoder: int
    depth: int
    """blocks of the encoder"""

    @property
    def all(self) -> int:
        """Of encoder and decoder."""
        return self.encoder + self.decoder

    @property
    def units(self) -> int:
        """What FSDP2 gathers one by one: the encoder's blocks, the decoder, the rest."""
        return self.depth + 2

    @property
    def unit(self) -> float:
        """Bytes of a block of the encoder."""
        return FLOAT * self.encoder / self.depth


class Network(NamedTuple):
    """What connects the GPUs; of a machine's network each of its GPUs has a share."""

    name: str
    bandwidth: float
    """bytes per second that a machine's GPUs together send out (NCCL's bus bandwidth)"""
    latency: float
    """seconds of a message between neighbours"""


class Waiting(NamedTuple):
    """Of one step."""

    sent: float
    """bytes that each GPU sends"""
    busy: float
    """seconds of communication, most of it beside computing"""
    exposed: float
    """seconds that nothing is computed"""


Kind = Callable[[Sizes, int, Network, float], Waiting]
"""`ddp` or `fsdp2`: of sizes, number of GPUs, network and seconds of computing"""


def share(gpus: int) -> float:
    """Of a message, what each GPU sends in one pass around the ring."""
    return (gpus - 1) / gpus


def pass_seconds(size: float, gpus: int, network: Network) -> float:
    """An all-gather or a reduce-scatter of `size` bytes: (n - 1)/n of it through each link."""
    latency = math.ceil(math.log2(gpus)) * network.latency
    return share(gpus) * size / network.bandwidth + latency


def all_reduce_seconds(size: float, gpus: int, network: Network) -> float:
    """A reduce-scatter and an all-gather: 2 (n - 1)/n of the bytes."""
    return 2 * pass_seconds(size, gpus, network)


def ddp(sizes: Sizes, gpus: int, network: Network, compute: float) -> Waiting:
    """Gradients all-reduced in buckets while the backward pass goes on.

    The last bucket is full only when the pass is over: it is always waited for.
    """
    size = FLOAT * sizes.all
    buckets = math.ceil(size / BUCKET)
    one = all_reduce_seconds(size / buckets, gpus, network)
    exposed = max(one, buckets * one - BACKWARD * compute)
    return Waiting(2 * share(gpus) * size, buckets * one, exposed)


def fsdp2(sizes: Sizes, gpus: int, network: Network, compute: float) -> Waiting:
    """Weights gathered for forward and again for backward, gradients reduced to their owner.

    The first gathering and the last reduction have nothing beside them.
    """
    size = FLOAT * sizes.all
    one = pass_seconds(sizes.unit, gpus, network)
    average = pass_seconds(size / sizes.units, gpus, network)
    forward, backward = sizes.units * average, 2 * sizes.units * average
    exposed = max(one, forward - FORWARD * compute) + max(one, backward - BACKWARD * compute)
    return Waiting(3 * share(gpus) * size, forward + backward, exposed)


def efficiency(waiting: Waiting, compute: float) -> float:
    """The share of the step in which is computed: speed beside that of GPUs on their own."""
    return compute / (compute + waiting.exposed)


def least_batch(
    kind: Kind, sizes: Sizes, gpus: int, network: Network, images_per_s: float, goal: float
) -> int:
    """The smallest batch per GPU whose efficiency is `goal` or more; `kind` is ddp or fsdp2."""

    def is_enough(batch: int) -> bool:
        compute = batch / images_per_s
        return efficiency(kind(sizes, gpus, network, compute), compute) >= goal

    high = 1
    while not is_enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
