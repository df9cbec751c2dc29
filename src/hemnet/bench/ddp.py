"""Data-parallel training: what several processes of this machine gain, and a projection for many GPUs.

Measured: processes of one thread each take the training step of a recipe, with gloo between them, in turns
with one process that has the machine to itself; figures are medians over the rounds. The images of a step
grow with the processes, so that without any loss a step takes as long as that of one.

Projected: what the step of a large recipe should take on many GPUs, by a formula (`hemnet.bench.scaling`)
from the parameters and FLOPs of its network and from assumptions about the hardware, each an option.
"""

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from hemnet.bench.crew import ABOUT, APART, REDUCE, TOGETHER, Crew, crews
from hemnet.bench.options import BenchError, count, positive, require_place, say, setting, whole
from hemnet.bench.scaling import Assumptions, Projection, Workload, project, workload
from hemnet.bench.tables import WIDTH, markdown
from hemnet.bench.timing import Ratio, paired
from hemnet.config.command_line import log_to_terminal
from hemnet.config.compose import load
from hemnet.storage.files import write_json

DEFAULT = Assumptions()
MEASURED, PROJECTED, MACHINES = ["experiment=synthetic_hem"], ["experiment=voc_hem"], ["1x1", "1x8", "4x8"]


@dataclass(frozen=True)
class Measured:
    """Seconds, one a round; of several processes those of the slowest.

    Attributes:
        about: name, batch and crop of the recipe, precision, bytes of its gradients.
        processes: how many there are together.
        alone: a step of one process, the others waiting.
        apart: the step of all at once, each for itself: what they take from each other on one machine.
        together: the step of all at once, gradients averaged.
        reduce: the all-reduce of as many bytes as the gradients have, and nothing else.
    """

    about: dict[str, Any]
    processes: int
    alone: list[float]
    apart: list[float]
    together: list[float]
    reduce: list[float]

    def efficiency(self, times: list[float]) -> Ratio:
        """The step of one process alone over that of all."""
        return paired(self.alone, times)

    @property
    def bandwidth(self) -> float:
        """Bytes per second that a process sends, and at once receives, in the all-reduce around a ring."""
        sent = 2 * (self.processes - 1) / self.processes * self.about["gradient_bytes"]
        return sent / median(self.reduce)


@dataclass
class DDPReport:
    """All that was measured and projected; ``measured`` is None without rounds."""

    environment: dict[str, Any]
    measured: Measured | None
    workload: Workload
    assumptions: Assumptions
    projections: list[Projection] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    option = parser.add_argument
    option("overrides", nargs="*", default=MEASURED, metavar="key=value",
           help="what is measured, as for training; default: experiment=synthetic_hem")  # fmt: skip
    option("--processes", type=count, default=2, metavar="N", help="together, 2 or more; default: 2")
    option("--rounds", type=whole, default=30, metavar="N", help="0 measures nothing; default: 30")
    option("--json", type=Path, metavar="FILE", help="write everything there")
    group = parser.add_argument_group("projection", "assumptions about the hardware, none of them measured")
    option = group.add_argument
    option("--project", nargs="+", default=PROJECTED, metavar="key=value",
           help="what is projected, as for training; default: experiment=voc_hem")  # fmt: skip
    option("--classes", type=count, default=21, metavar="K", help="of its data; default: 21")
    option("--machines", type=_machines, nargs="+", default=[_machines(text) for text in MACHINES],
           metavar="MxG", help="machines x GPUs of each; default: 1x1 1x8 4x8")  # fmt: skip
    option("--tflops", type=positive, default=DEFAULT.peak_flops / 1e12, metavar="R",
           help="peak of a GPU in the precision of training; default: %(default)g")  # fmt: skip
    option("--utilization", type=_share, default=DEFAULT.utilization, metavar="U",
           help="share of the peak that training reaches; default: %(default)g")  # fmt: skip
    option("--step-seconds", type=positive, metavar="S", help="of one GPU, where it was measured: takes the "
           "place of both")  # fmt: skip
    option("--intra-gbs", type=positive, default=DEFAULT.intra_bandwidth / 1e9, metavar="GB/s",
           help="that a GPU sends within its machine; default: %(default)g")  # fmt: skip
    option("--inter-gbs", type=positive, default=DEFAULT.inter_bandwidth / 1e9, metavar="GB/s",
           help="that a machine sends to others; default: %(default)g")  # fmt: skip
    option("--intra-us", type=positive, default=DEFAULT.intra_latency * 1e6, metavar="US",
           help="microseconds a message within a machine; default: %(default)g")  # fmt: skip
    option("--inter-us", type=positive, default=DEFAULT.inter_latency * 1e6, metavar="US",
           help="microseconds a message between machines; default: %(default)g")  # fmt: skip
    option("--overlap", type=_share, default=DEFAULT.overlap, metavar="O",
           help="share of the all-reduce that can run behind the backward pass; "
           "default: %(default)g")  # fmt: skip
    option("--bucket-mib", type=positive, default=DEFAULT.bucket_bytes / 2**20, metavar="MIB",
           help="of gradients that are reduced together; default: %(default)g, DDP's own")  # fmt: skip


def _machines(text: str) -> tuple[int, int]:
    """Read machines x GPUs, such as 4x8."""
    machines, _, gpus = text.partition("x")
    try:
        return count(machines), count(gpus)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} will not do: give machines x GPUs of each, such as 4x8"
        ) from None


def _share(text: str) -> float:
    """Read a number in (0, 1]."""
    if (value := positive(text)) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: give a number above 0, at most 1")
    return value


def run(options: argparse.Namespace) -> None:
    """Measure, project, print, and write what was asked for.

    Raises:
        hemnet.errors.HemnetError: the configuration or the data are wrong, a process ends, or there is no
            folder for the file.
    """
    require_place(options.json)
    if options.processes < 2:
        raise BenchError("--processes: one is measured anyway; give 2 or more")
    log_to_terminal()
    work = workload(options.project, options.classes)
    given = _assumptions(options)
    measured = measure(options.overrides, options.processes, options.rounds) if options.rounds else None
    report = DDPReport(setting(), measured, work, given)
    report.projections = [project(work, given, machines, gpus) for machines, gpus in options.machines]
    print_report(report)
    if options.json is not None:
        write_json(options.json, asdict(report))
        print(f"\nwritten to {options.json}")


def _assumptions(options: argparse.Namespace) -> Assumptions:
    return Assumptions(
        peak_flops=options.tflops * 1e12, utilization=options.utilization, step_seconds=options.step_seconds,
        intra_bandwidth=options.intra_gbs * 1e9, inter_bandwidth=options.inter_gbs * 1e9,
        intra_latency=options.intra_us / 1e6, inter_latency=options.inter_us / 1e6,
        overlap=options.overlap, bucket_bytes=options.bucket_mib * 2**20,
    )  # fmt: skip


def measure(overrides: list[str], processes: int, rounds: int) -> Measured:
    """Measure in rounds, each of which begins with another of the four, after one that is not counted."""
    load(overrides)  # what is wrong with it is said once, and not by every process
    with crews([1, processes], overrides) as (single, team):
        say(f"starting {processes + 1} processes")
        (about,) = single.do(ABOUT)
        turns: list[tuple[Crew, str]] = [(single, APART), (team, APART), (team, TOGETHER), (team, REDUCE)]
        times: list[list[float]] = [[] for _ in turns]
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}")
            for turn in range(len(turns)):
                which = (turn + number) % len(turns)
                crew, work = turns[which]
                times[which].append(max(crew.do(work)))
    return Measured(about, processes, *(found[1:] for found in times))


def print_report(report: DDPReport) -> None:
    """Print what was measured, then what is projected and from what."""
    console = Console(width=WIDTH, highlight=False, markup=False)
    if report.measured is not None:
        console.print(f"{report.environment['device']}, gloo, one thread a process\n")
        _print_measured(console, report.measured)
    _print_projected(console, report)


def _print_measured(console: Console, found: Measured) -> None:
    about, size = found.about, found.processes
    height, width = about["crop"]
    console.print(f"MEASURED: the training step of {about['name']}, {about['batch']} x {height} x {width} a "
                  f"process, {about['precision']}; medians of {len(found.alone)} rounds\n")  # fmt: skip
    table = markdown("processes | s/step | images/s | efficiency [quartiles]")
    for name, number, times in (
        ("1, the others waiting", 1, found.alone),
        (f"{size}, each for itself", size, found.apart),
        (f"{size}, gradients averaged", size, found.together),
    ):
        efficiency = "1" if times is found.alone else str(found.efficiency(times))
        seconds = median(times)
        table.add_row(name, f"{seconds:.4f}", f"{number * about['batch'] / seconds:.2f}", efficiency)
    console.print(table)
    console.print(
        f"\nGradients all-reduced: {about['gradient_bytes'] / 1e6:.3f} MB a step. The all-reduce alone: "
        f"{1000 * median(found.reduce):.2f} ms, {found.bandwidth / 1e9:.2f} GB/s sent by each process\n"
    )


def _print_projected(console: Console, report: DDPReport) -> None:
    work = report.workload
    console.print(f"PROJECTED, not measured: {work.name}, {work.batch} images a GPU and step; "
                  f"{work.gradient_bytes / 1e6:.1f} MB of gradients, {work.forward_flops / 1e9:.0f} GFLOPs "
                  f"an image forward, {work.small_collectives} small collectives a step\n")  # fmt: skip
    table = markdown(
        "machines x GPUs | images a step | compute ms | all-reduce ms | of it hidden ms | small ms | ms/step"
        " | images/s | efficiency"
    )
    for p in report.projections:
        parts = [f"{1000 * seconds:.1f}" for seconds in (p.compute, p.reduce, p.hidden, p.small, p.step)]
        table.add_row(f"{p.machines} x {p.gpus}", str(p.machines * p.gpus * p.batch), *parts,
                      f"{p.images_per_second:.0f}", f"{p.efficiency:.3f}")  # fmt: skip
    console.print(table)
    console.print("\nAssumed: " + "; ".join(_listed(report.assumptions)), soft_wrap=True)


def _listed(given: Assumptions) -> list[str]:
    return [
        f"{given.peak_flops / 1e12:g} TFLOP/s a GPU (--tflops), of which training reaches "
        f"{given.utilization:g} (--utilization)"
        if given.step_seconds is None
        else f"{given.step_seconds:g} s a step of one GPU (--step-seconds)",
        f"{given.intra_bandwidth / 1e9:g} GB/s sent by a GPU within its machine (--intra-gbs)",
        f"{given.inter_bandwidth / 1e9:g} GB/s by a machine (--inter-gbs)",
        f"{1e6 * given.intra_latency:g} us a message within a machine (--intra-us)",
        f"{1e6 * given.inter_latency:g} us between machines (--inter-us)",
        f"{given.overlap:g} of the all-reduce can hide behind the backward pass (--overlap)",
        f"pieces of {given.bucket_bytes / 2**20:g} MiB (--bucket-mib)",
        "images always at hand, no GPU slower than others",
    ]
