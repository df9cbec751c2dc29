"""How data-parallel training should scale: its step in closed form. A projection, no measurement.

Each of m machines has g GPUs, and n = m g of them train on b images each. A step takes

    t         = t_compute + t_reduce - t_hidden + t_small
    t_compute = 3 b F / (u R)       F FLOPs of an image forward, twice that backward; at u of the peak rate R
    t_reduce  = 2 (g-1)/g S/B_g + 2 (m-1)/m S/B_m + ceil(S/bucket) l         of S bytes of gradients
    t_hidden  = min(o t_reduce, 2/3 t_compute)      behind the backward pass, of which there is so much
    t_small   = c l                 collectives of few bytes, such as those of synchronised batch norm
    l         = 2 (g-1) a_g + 2 (m-1) a_m           for all messages of a collective, one after another

The all-reduce is hierarchical: the GPUs of a machine reduce-scatter around a ring, g-1 messages of S/g at the
bandwidth B_g; each of the shards is all-reduced around a ring of the machines, 2 (m-1) messages of S/(g m),
where the g of a machine share its B_m; then the machine all-gathers. For m = 1 it is the plain ring, for
g = 1 a ring of machines. Each message costs a latency, a_g within a machine and a_m between two.

Left out: the loading of images (taken to keep up), validation, checkpoints, and that the slowest GPU of each
step is waited for.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import nn

from hemnet.config.build import build_network
from hemnet.config.compose import load
from hemnet.em import HighwayEM
from hemnet.nets.flops import count_flops

# A backward pass multiplies twice as much as a forward pass: for the inputs, and for the weights.
BACKWARD, WHOLE = 2, 3


@dataclass(frozen=True)
class Assumptions:
    """What the projection takes for granted; none of it was measured by this project.

    Attributes:
        peak_flops: R, of one GPU in the precision of training, per second.
        utilization: u, in (0, 1].
        step_seconds: t_compute, where it is known: R and u then do not matter.
        intra_bandwidth: B_g, bytes per second that a GPU sends, and at once receives, within its machine.
        inter_bandwidth: B_m, bytes per second that a machine sends, and at once receives.
        intra_latency: a_g, seconds a message.
        inter_latency: a_m, seconds a message.
        overlap: o, share of the all-reduce that can run behind the backward pass, in [0, 1].
        bucket_bytes: of the gradients that are reduced together.
    """

    peak_flops: float = 312e12
    utilization: float = 0.32
    step_seconds: float | None = None
    intra_bandwidth: float = 150e9
    inter_bandwidth: float = 12.5e9
    intra_latency: float = 5e-6
    inter_latency: float = 15e-6
    overlap: float = 0.5
    bucket_bytes: float = 25 * 2**20


@dataclass(frozen=True)
class Workload:
    """What a recipe asks of each GPU in a step, counted from its network.

    Attributes:
        name: of the recipe.
        gradient_bytes: S, of float32 gradients.
        forward_flops: F, of one image of the training crop, auxiliary head included.
        batch: b, images a GPU.
        small_collectives: c, those besides the gradients'.
    """

    name: str
    gradient_bytes: int
    forward_flops: int
    batch: int
    small_collectives: int


@dataclass(frozen=True)
class Projection:
    """A step on so many machines with so many GPUs each, in seconds; see the head of the module."""

    machines: int
    gpus: int
    batch: int
    compute: float
    reduce: float
    hidden: float
    small: float

    @property
    def step(self) -> float:
        """t, the whole step."""
        return self.compute + self.reduce - self.hidden + self.small

    @property
    def images_per_second(self) -> float:
        """Of all GPUs together."""
        return self.machines * self.gpus * self.batch / self.step

    @property
    def efficiency(self) -> float:
        """The step of one GPU alone over this one: 1 if GPUs cost each other nothing."""
        return self.compute / self.step


def project(work: Workload, given: Assumptions, machines: int, gpus: int) -> Projection:
    """Return the step of ``machines`` >= 1 with ``gpus`` >= 1 each."""
    compute = given.step_seconds
    if compute is None:
        flops = WHOLE * work.batch * work.forward_flops
        compute = flops / (given.utilization * given.peak_flops)
    latency = 2 * (gpus - 1) * given.intra_latency + 2 * (machines - 1) * given.inter_latency
    reduce = (
        2 * (gpus - 1) / gpus * work.gradient_bytes / given.intra_bandwidth
        + 2 * (machines - 1) / machines * work.gradient_bytes / given.inter_bandwidth
        + ceil(work.gradient_bytes / given.bucket_bytes) * latency
    )
    hidden = min(given.overlap * reduce, BACKWARD / WHOLE * compute)
    return Projection(machines, gpus, work.batch, compute, reduce, hidden, work.small_collectives * latency)


def workload(overrides: list[str], num_classes: int) -> Workload:
    """Count what a training step is made of, without data, weights or memory for them.

    Args:
        overrides: of the training configuration, such as ``experiment=voc_hem``.
        num_classes: of the data.

    Raises:
        hemnet.config.check.ConfigError: an override is wrong.
    """
    config = load(overrides)
    with torch.device("meta"):
        network = build_network(config, num_classes, pretrained=False).train()
        # Two, since batch norm cannot train on one value a channel, which pooling to 1 x 1 leaves.
        image_BCHW = torch.zeros(2, 3, *_crop(config.data.train_transform.crop_size))
    gradients = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    flops = count_flops(network, image_BCHW)["total"] // 2
    small = _small_collectives(network, config.trainer.sync_batchnorm)
    return Workload(config.name, gradients, flops, config.data.batch_size, small)


def _crop(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _small_collectives(network: nn.Module, synchronised: bool) -> int:
    """Return the collectives of a step besides the gradients'.

    The loss has one, for the pixels of all ranks; synchronised batch norm one forward and one backward; a
    layer of EM one for its moving average; and DDP copies the buffers of the first rank to the others, those
    of a type at once.
    """
    norms = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    averages = sum(isinstance(module, HighwayEM) and module.averages for module in network.modules())
    types = len({buffer.dtype for buffer in network.buffers()})
    return 1 + (2 * norms if synchronised else 0) + averages + types
