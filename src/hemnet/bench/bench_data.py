"""Images per second of the input path: reading, augmentation, batches, and the whole training loader.

The stages run in turns in one thread; their CPU time is measured too, which load on the machine changes less
than the clock. Then the training loader runs by itself, for each number of workers. Figures are medians over
blocks of batches, after one block that is not counted.
"""

import argparse
from dataclasses import asdict

from hemnet.bench.arguments import positive, require_place, whole, write_findings
from hemnet.config.command_line import log_to_terminal
from hemnet.storage.places import absolute


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    option = parser.add_argument
    option("overrides", nargs="+", metavar="key=value", help="as for training: data=NAME data.root=FOLDER, "
           "experiment=NAME, data.cache=FOLDER ...")  # fmt: skip
    option("--workers", type=whole, nargs="+", default=[0, 1, 2], metavar="N", help="of the loader; "
           "default: 0 1 2")  # fmt: skip
    option("--seconds", type=positive, default=10.0, help="for the stages, and for each loader; up to four "
           "times that to complete five blocks; default: 10")  # fmt: skip
    option("--need", type=positive, metavar="R", help="images per second that training consumes, which is "
           "batch size over seconds per step; prints whether the loader delivers them")  # fmt: skip
    option("--json", type=absolute, metavar="FILE", help="write everything that was measured there")


def run(options: argparse.Namespace) -> None:
    """Measure, print, and write the JSON file if one was asked for.

    Raises:
        hemnet.errors.HemnetError: the configuration or the data are wrong, or the folder of the JSON file
            does not exist.
    """
    require_place(options.json)
    from hemnet.bench.input_path import measure, print_findings  # here: slow to import

    log_to_terminal()
    found = measure(options)
    print_findings(found)
    write_findings(options.json, asdict(found))
