"""Time and peak memory of the EM engines, beside plain autograd, torch.compile and checkpointing.

Every contender is first compared with plain autograd in float64 on the same inputs; if one disagrees,
nothing is reported and the exit status is 1. Then all run in turns, forward without a graph and forward
with backward, and the results are compared with the roofline of the device and with the project's targets.
On a CPU the layer is then compared with ten lines of plain autograd in its place (--parts layer).
"""

import argparse
from dataclasses import asdict

from hemnet.bench.arguments import CONTENDERS, BenchError, count, positive, require_place, write_findings
from hemnet.storage.places import absolute

ITERATIONS = [1, 3, 8, 16, 64]
PARTS = ("engines", "layer")
"""The engines and what PyTorch offers, on one shape; the layer and plain autograd, on images."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    option = parser.add_argument
    option(
        "--iterations", type=count, nargs="+", default=ITERATIONS, metavar="T", help="default: 1 3 8 16 64"
    )
    option("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    option("--dtype", choices=("float32", "bfloat16"), nargs="+", help="of the features; default: float32, "
           "on CUDA bfloat16 too")  # fmt: skip
    option("--shape", type=count, nargs=4, metavar=("B", "N", "C", "K"), help="images, positions, channels, "
           "components; default: 2 4225 256 64, on CUDA 16 4225 512 64")  # fmt: skip
    option(
        "--engines",
        choices=CONTENDERS,
        nargs="+",
        default=list(CONTENDERS),
        help="default: all; reference always",
    )
    option("--repeats", type=count, default=50, metavar="N", help="rounds at most; default: 50")
    option("--seconds", type=positive, default=20.0, help="for the rounds of one pass at one T, up to four "
           "times that to complete five; default: 20")  # fmt: skip
    option("--compile-up-to", type=count, default=8, metavar="T", help="largest T to compile; default: 8")
    option("--threads", type=count, metavar="N", help="CPU threads; default: PyTorch's")
    option("--parts", choices=PARTS, nargs="+", default=list(PARTS), help="default: both; layer on a CPU "
           "alone, with one thread and with two")  # fmt: skip
    option("--clock", choices=("process", "wall"), help="for the layer: processor time of all threads, or "
           "time of the clock; default: process with one thread, wall with two")  # fmt: skip
    option("--json", type=absolute, metavar="FILE", help="write everything that was measured there")


def run(options: argparse.Namespace) -> None:
    """Measure, print, and write the JSON file if one was asked for.

    Raises:
        BenchError: there is no such device, or no folder for the JSON file.
        hemnet.bench.arguments.Disagreement: a contender computes something else than the reference.
    """
    require_place(options.json)
    import torch  # here, with what else takes seconds to import, which --help does without

    from hemnet.bench.engines import measure
    from hemnet.bench.tables import print_findings
    from hemnet.bench.verdicts import verdicts

    if options.device == "cuda" and not torch.cuda.is_available():
        raise BenchError("--device cuda: PyTorch finds no CUDA device; use --device cpu")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    found = measure(options)
    found.verdicts = verdicts(found)
    print_findings(found)
    write_findings(options.json, asdict(found))
