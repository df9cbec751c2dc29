"""What the projection of `hemnet.bench.scaling` assumes, as options of the command line."""

import argparse
from dataclasses import dataclass

from hemnet.bench.arguments import count, positive

RECIPE, MACHINES = ["experiment=voc_hem"], [(1, 1), (1, 8), (4, 8)]


@dataclass(frozen=True)
class Assumptions:
    """What the projection assumes of the hardware; none of it is measured by this project.

    Attributes:
        peak_flops: R, of one GPU in the precision of training, per second.
        utilization: u, in (0, 1].
        step_seconds: t_compute, where it was measured; R and u are then unused.
        intra_bandwidth: B_g, bytes per second that a GPU sends, and at once receives, within its machine.
        inter_bandwidth: B_m, bytes per second that a machine sends, and at once receives.
        intra_latency: a_g, seconds per message.
        inter_latency: a_m, seconds per message.
        overlap: o, the share of the all-reduce that can run during the backward pass, in [0, 1].
        bucket_bytes: bytes of gradients that are reduced together.
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


# Each assumption as an option: flag, field, value of the field for an option of 1, text.
OPTIONS = (
    ("--tflops", "peak_flops", 1e12, "peak rate of a GPU in the precision of training, in TFLOP/s"),
    ("--utilization", "utilization", 1, "share of the peak rate that training reaches"),
    ("--intra-gbs", "intra_bandwidth", 1e9, "GB/s that a GPU sends within its machine"),
    ("--inter-gbs", "inter_bandwidth", 1e9, "GB/s that a machine sends to the others"),
    ("--intra-us", "intra_latency", 1e-6, "microseconds per message within a machine"),
    ("--inter-us", "inter_latency", 1e-6, "microseconds per message between machines"),
    ("--overlap", "overlap", 1, "share of the all-reduce that can run during the backward pass"),
    ("--bucket-mib", "bucket_bytes", 2**20, "MiB of gradients that are reduced together"),
)
SHARES = ("utilization", "overlap")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to project, and the assumptions."""
    option = parser.add_argument_group(
        "projection", "assumptions about the hardware, not measured"
    ).add_argument
    option("--project", nargs="+", default=RECIPE, metavar="key=value",
           help="what to project, as for training; default: experiment=voc_hem")  # fmt: skip
    option("--classes", type=count, default=21, metavar="K", help="classes of its data; default: 21")
    option("--machines", type=_machines, nargs="+", default=MACHINES, metavar="MxG",
           help="machines x GPUs of each; default: 1x1 1x8 4x8")  # fmt: skip
    option("--step-seconds", type=positive, metavar="S",
           help="step of one GPU, where it was measured; replaces --tflops and --utilization")  # fmt: skip
    for flag, field, unit, text in OPTIONS:
        option(flag, dest=field, type=_share if field in SHARES else positive, metavar="X",
               default=getattr(Assumptions, field) / unit, help=f"{text}; default: %(default)g")  # fmt: skip


def _machines(text: str) -> tuple[int, int]:
    """Read machines x GPUs, such as 4x8."""
    machines, _, gpus = text.partition("x")
    try:
        return count(machines), count(gpus)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not machines x GPUs: give two numbers, such as 4x8"
        ) from None


def _share(text: str) -> float:
    """Read a number in (0, 1]."""
    if (value := positive(text)) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: give a number above 0, at most 1")
    return value


def of(options: argparse.Namespace) -> Assumptions:
    """Return the assumptions that the options of `add_arguments` state."""
    given = {field: getattr(options, field) * unit for _, field, unit, _ in OPTIONS}
    return Assumptions(step_seconds=options.step_seconds, **given)
