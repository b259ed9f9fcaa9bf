"""Cost model of data-parallel communication: bytes sent, and the time a step waits for them.

Pure functions.  A collective takes its bytes over the bandwidth, plus a latency.  The forward pass
is one third of a step's computation, the backward pass two thirds.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

FORWARD, BACKWARD = 1 / 3, 2 / 3
"""shares of a step's computation: the backward pass has twice the matrix products"""

FLOAT = 4
"""bytes of a weight or gradient: fp32, whatever precision autocast computes in"""

BUCKET = 25 * 2**20
"""bytes of gradients in one of DDP's messages (its default)"""


class Sizes(NamedTuple):
    """Numbers of trained parameters of a model."""

    encoder: int
    decoder: int
    depth: int
    """blocks of the encoder"""

    @property
    def all(self) -> int:
        """Parameters of encoder and decoder."""
        return self.encoder + self.decoder

    @property
    def units(self) -> int:
        """Number of FSDP2's all-gather units: the encoder's blocks, the decoder, the rest."""
        return self.depth + 2

    @property
    def unit(self) -> float:
        """Bytes of one encoder block."""
        return FLOAT * self.encoder / self.depth


class Network(NamedTuple):
    """Network between GPUs; the GPUs of a machine share its bandwidth."""

    name: str
    bandwidth: float
    """bytes per second that a machine's GPUs send together (NCCL's bus bandwidth)"""
    latency: float
    """seconds of a message between two GPUs"""


class Communication(NamedTuple):
    """Communication of one step."""

    sent: float
    """bytes that each GPU sends"""
    busy: float
    """seconds of communication, most of it overlapped with computation"""
    exposed: float
    """seconds of communication without computation"""


Kind = Callable[[Sizes, int, Network, float], Communication]
"""`ddp` or `fsdp2`: (sizes, number of GPUs, network, seconds of computation) → communication"""


def share(gpus: int) -> float:
    """Share of a message that each GPU sends in one pass around the ring: (n - 1)/n."""
    return (gpus - 1) / gpus


def pass_seconds(size: float, gpus: int, network: Network) -> float:
    """Seconds of an all-gather or reduce-scatter of `size` bytes."""
    latency = math.ceil(math.log2(gpus)) * network.latency
    return share(gpus) * size / network.bandwidth + latency


def all_reduce_seconds(size: float, gpus: int, network: Network) -> float:
    """Seconds of a ring all-reduce of `size` bytes: a reduce-scatter and an all-gather."""
    return 2 * pass_seconds(size, gpus, network)


def ddp(sizes: Sizes, gpus: int, network: Network, compute: float) -> Communication:
    """Communication of DDP, which all-reduces buckets of gradients during the backward pass.

    `compute`: seconds of computation of a step.  The last bucket is full only at the end of the
    pass and never overlapped.
    """
    size = FLOAT * sizes.all
    buckets = math.ceil(size / BUCKET)
    one = all_reduce_seconds(size / buckets, gpus, network)
    exposed = max(one, buckets * one - BACKWARD * compute)
    return Communication(2 * share(gpus) * size, buckets * one, exposed)


def fsdp2(sizes: Sizes, gpus: int, network: Network, compute: float) -> Communication:
    """Communication of FSDP2: weights all-gathered for each pass, gradients reduce-scattered.

    `compute`: seconds of computation of a step.  The first all-gather and the last reduce-scatter
    are never overlapped.
    """
    size = FLOAT * sizes.all
    one = pass_seconds(sizes.unit, gpus, network)
    average = pass_seconds(size / sizes.units, gpus, network)
    forward, backward = sizes.units * average, 2 * sizes.units * average
    exposed = max(one, forward - FORWARD * compute) + max(one, backward - BACKWARD * compute)
    return Communication(3 * share(gpus) * size, forward + backward, exposed)


def efficiency(communication: Communication, compute: float) -> float:
    """Scaling efficiency: seconds of computation divided by seconds of the step."""
    return compute / (compute + communication.exposed)


def least_batch(
    kind: Kind, sizes: Sizes, gpus: int, network: Network, images_per_s: float, goal: float
) -> int:
    """Smallest batch per GPU with an efficiency of at least `goal`.

    `kind`: `ddp` or `fsdp2`.  `images_per_s`: speed of one GPU without communication.
    """

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
