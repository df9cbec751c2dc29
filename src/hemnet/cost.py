"""Count a network's FLOPs and parameters and time it, of a run or of a recipe, experiment=NAME.

It prints FLOPs (an addition and a multiplication count as two; only matrix products and convolutions are
counted), parameters, latency and, on a GPU, peak memory of a forward pass in evaluation mode.

Shapes: B images, H and W pixels.
"""

import hemnet.lab

import argparse

from hemnet.config.command_line import parse, run_entry
from hemnet.config.compose import load
from hemnet.config.trained import override
from hemnet.errors import HemnetError
from hemnet.runs.run import Run
from hemnet.storage.places import absolute


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet cost", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument(
        "run", nargs="?", type=absolute, help="run directory; without one, experiment=NAME or other key=value"
    )
    parser.add_argument(
        "--size", nargs=2, type=int, default=(513, 513), metavar=("H", "W"), help="default: 513 513"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="B", help="images per pass; default: 1")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="timed passes; default: 20")
    parser.add_argument("--device", help="cpu, cuda, ...; default: cuda where there is a GPU")
    parser.add_argument(
        "--classes", type=int, metavar="K", help="number of classes; default: those of the run or the data"
    )
    parser.add_argument("--output", type=absolute, metavar="FILE", help="also write the results as JSON")
    options, assignments = parse(parser)
    if min(*options.size, options.batch, options.repeats) < 1:
        raise HemnetError("--size, --batch and --repeats take numbers of at least 1")
    if options.run and options.classes:
        raise HemnetError("--classes is for a recipe: a run has its own classes, so leave --classes out")
    run = Run.open(options.run) if options.run else None
    config = override(run.config, assignments, "cost") if run else load([*assignments])
    from hemnet.using.costing import report_cost  # here, as it takes seconds, which --help does without

    report_cost(
        run,
        config,
        assignments,
        size=tuple(options.size),
        batch=options.batch,
        repeats=options.repeats,
        device=options.device,
        classes=options.classes,
        output=options.output,
    )


if __name__ == "__main__":
    run_entry(_entry)
