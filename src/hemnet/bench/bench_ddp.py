"""Data-parallel training: what several processes of this machine gain, and a projection for many GPUs.

Measured: processes of one thread each, connected by gloo, take the training step of a recipe, all at once and
one while others wait. Figures are medians over the rounds. Each process adds its own images to a step, so
without any loss a step of all takes as long as a step of one.

Projected: the step of a large recipe on many GPUs, by a formula (see hemnet.bench.scaling) from the
parameters and FLOPs of its network and from assumptions about the hardware, each an option.
"""

import argparse
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console

from hemnet.bench import assumptions
from hemnet.bench.arguments import BenchError, count, require_place, setting, whole, write_findings
from hemnet.config.command_line import log_to_terminal
from hemnet.storage.places import absolute

if TYPE_CHECKING:  # slow to import
    from hemnet.bench.ddp_steps import Measured
    from hemnet.bench.scaling import Projection, Workload

MEASURED = ["experiment=synthetic_hem"]


@dataclass
class DDPFindings:
    """What was measured and projected; ``measured`` is None without rounds."""

    environment: dict[str, Any]
    measured: "Measured | None"
    workload: "Workload"
    assumptions: assumptions.Assumptions
    projections: list["Projection"] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    option = parser.add_argument
    option("overrides", nargs="*", default=MEASURED, metavar="key=value",
           help="what to measure, as for training; default: experiment=synthetic_hem")  # fmt: skip
    option(
        "--processes", type=count, default=2, metavar="N", help="that train together, 2 or more; default: 2"
    )
    option("--rounds", type=whole, default=30, metavar="N", help="0 measures nothing; default: 30")
    option("--json", type=absolute, metavar="FILE", help="write all results there")
    assumptions.add_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Measure, project, print, and write the JSON file if one was asked for.

    Raises:
        hemnet.errors.HemnetError: the configuration or the data are wrong, a process ends, or the folder of
            the JSON file does not exist.
    """
    require_place(options.json)
    if options.processes < 2:
        raise BenchError("--processes: one process is measured in any case; give 2 or more")
    from hemnet.bench.ddp_steps import measure  # here, as they take seconds, which --help does without
    from hemnet.bench.scaling import print_projections, project, workload
    from hemnet.bench.tables import wide_console

    log_to_terminal()
    work, given = workload(options.project, options.classes), assumptions.of(options)
    measured = measure(options.overrides, options.processes, options.rounds) if options.rounds else None
    projections = [project(work, given, *machines) for machines in options.machines]
    found = DDPFindings(setting(), measured, work, given, projections)
    console = wide_console()
    if measured is not None:
        console.print(f"{found.environment['device']}, gloo, one thread a process\n")
        _print_measured(console, measured)
    print_projections(console, work, given, projections)
    write_findings(options.json, asdict(found))


def _print_measured(console: Console, found: "Measured") -> None:
    from hemnet.bench.tables import markdown

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
