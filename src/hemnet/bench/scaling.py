"""A projection of data-parallel training to many GPUs: its step in closed form. Nothing here is measured.

Each of m machines has g GPUs, and n = m g of them train on b images each. A step takes

    t         = t_compute + t_reduce - t_hidden + t_small
    t_compute = 3 b F / (u R)       F FLOPs of an image forward, twice that backward; at u of the peak rate R
    t_reduce  = 2 (g-1)/g S/B_g + 2 (m-1)/m S/B_m + ceil(S/bucket) l         for S bytes of gradients
    t_hidden  = min(o t_reduce, 2/3 t_compute)      runs during the backward pass, 2/3 of the computation
    t_small   = c l                 collectives of few bytes, such as those of synchronised batch norm
    l         = 2 (g-1) a_g + 2 (m-1) a_m           latency of the messages of a collective, in sequence

The all-reduce is hierarchical: the GPUs of a machine reduce-scatter around a ring, g-1 messages of S/g at the
bandwidth B_g; each of the shards is all-reduced around a ring of the machines, 2 (m-1) messages of S/(g m),
where the g GPUs of a machine share its bandwidth B_m; then each machine all-gathers. For m = 1 this is the
plain ring, for g = 1 a ring of machines. A message has the latency a_g within a machine and a_m between two.

Left out: loading images (assumed to keep up), validation, checkpoints, and waiting for the slowest GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from rich.console import Console
from torch import nn

from hemnet.bench.assumptions import OPTIONS, Assumptions
from hemnet.bench.tables import markdown
from hemnet.config.build import build_network
from hemnet.config.compose import load
from hemnet.em import HighwayEM
from hemnet.nets.flops import count_flops

# A backward pass costs twice a forward pass: one product for the inputs and one for the weights.
BACKWARD, WHOLE = 2, 3


@dataclass(frozen=True)
class Workload:
    """What a recipe asks of each GPU in a step, counted from its network.

    Attributes:
        name: of the recipe.
        gradient_bytes: S, of float32 gradients.
        forward_flops: F, for one image of the training crop, auxiliary head included.
        batch: b, images per GPU.
        small_collectives: c, collectives besides those of the gradients.
    """

    name: str
    gradient_bytes: int
    forward_flops: int
    batch: int
    small_collectives: int


@dataclass(frozen=True)
class Projection:
    """The step on ``machines`` with ``gpus`` each and ``batch`` images per GPU; times in seconds."""

    machines: int
    gpus: int
    batch: int
    compute: float
    reduce: float
    hidden: float
    small: float

    @property
    def step(self) -> float:
        """t, the whole step in seconds."""
        return self.compute + self.reduce - self.hidden + self.small

    @property
    def images_per_second(self) -> float:
        """Images per second of all GPUs together."""
        return self.machines * self.gpus * self.batch / self.step

    @property
    def efficiency(self) -> float:
        """The step of one GPU alone over this one; 1 means that nothing is lost."""
        return self.compute / self.step


def project(work: Workload, given: Assumptions, machines: int, gpus: int) -> Projection:
    """Return the step of ``machines`` >= 1 with ``gpus`` >= 1 each."""
    size, rate = work.gradient_bytes, given.utilization * given.peak_flops
    compute = given.step_seconds or WHOLE * work.batch * work.forward_flops / rate
    latency = 2 * (gpus - 1) * given.intra_latency + 2 * (machines - 1) * given.inter_latency
    reduce = (
        2 * (gpus - 1) / gpus * size / given.intra_bandwidth
        + 2 * (machines - 1) / machines * size / given.inter_bandwidth
        + ceil(size / given.bucket_bytes) * latency
    )
    hidden = min(given.overlap * reduce, BACKWARD / WHOLE * compute)
    return Projection(machines, gpus, work.batch, compute, reduce, hidden, work.small_collectives * latency)


def workload(overrides: list[str], num_classes: int) -> Workload:
    """Count what a training step consists of, without data, weights or memory for them.

    Args:
        overrides: of the training configuration, such as ``experiment=voc_hem``.
        num_classes: classes of the data.

    Raises:
        hemnet.config.explain.ConfigError: an override is wrong.
    """
    config = load(overrides)
    crop: Any = config.data.train_transform.crop_size
    with torch.device("meta"):
        network = build_network(config, num_classes, pretrained=False).train()
        # Two images: pooling to 1 x 1 leaves one value per image, and batch norm cannot train on one value.
        image_BCHW = torch.zeros(2, 3, *((crop, crop) if isinstance(crop, int) else crop))
    gradients = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    flops = count_flops(network, image_BCHW)["total"] // 2
    small = _small_collectives(network, config.trainer.sync_batchnorm)
    return Workload(config.name, gradients, flops, config.data.batch_size, small)


def _small_collectives(network: nn.Module, synchronised: bool) -> int:
    """Return the number of collectives in a step besides those of the gradients.

    The loss has one, for the pixels of all ranks; each synchronised batch norm one forward and one backward;
    each EM layer one for its moving average; and DDP broadcasts the buffers of rank 0, one per dtype.
    """
    norms = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    averages = sum(isinstance(module, HighwayEM) and module.averages for module in network.modules())
    types = len({buffer.dtype for buffer in network.buffers()})
    return 1 + (2 * norms if synchronised else 0) + averages + types


def print_projections(
    console: Console, work: Workload, given: Assumptions, projections: list[Projection]
) -> None:
    """Print the workload, a row per projection, and the assumptions."""
    console.print(f"PROJECTED, not measured: {work.name}, {work.batch} images a GPU and step; "
                  f"{work.gradient_bytes / 1e6:.1f} MB of gradients, {work.forward_flops / 1e9:.0f} GFLOPs "
                  f"an image forward, {work.small_collectives} small collectives a step\n")  # fmt: skip
    table = markdown(
        "machines x GPUs | images a step | compute ms | all-reduce ms | of it hidden ms | small ms | ms/step"
        " | images/s | efficiency"
    )
    for p in projections:
        parts = [f"{1000 * seconds:.1f}" for seconds in (p.compute, p.reduce, p.hidden, p.small, p.step)]
        table.add_row(f"{p.machines} x {p.gpus}", str(p.machines * p.gpus * p.batch), *parts,
                      f"{p.images_per_second:.0f}", f"{p.efficiency:.3f}")  # fmt: skip
    console.print(table)
    console.print("\nAssumed: " + "; ".join(_listed(given)), soft_wrap=True)


def _listed(given: Assumptions) -> Iterator[str]:
    if given.step_seconds is not None:
        yield f"seconds per step of one GPU: {given.step_seconds:g} (--step-seconds)"
    for flag, field, unit, text in OPTIONS:
        if given.step_seconds is None or field not in ("peak_flops", "utilization"):
            yield f"{text}: {getattr(given, field) / unit:g} ({flag})"
    yield "images never waited for; no GPU slower than the others"
