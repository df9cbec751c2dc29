"""Write one page to look at what EM does with photographs.

On the page one picks a pixel and sees which components hold it at each iteration, the map of every component,
the reconstruction of the features, truth and prediction, and the log-likelihood. It is one file that a
browser opens without a server or a network.

Without IMAGES it shows photographs of the validation split, and with them these, for which there is no truth.
"""

import hemnet.lab

import argparse

from hemnet.config.command_line import add_checkpoint_arguments, log_to_terminal, parse, run_entry
from hemnet.runs.run import Run
from hemnet.storage.places import absolute


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet explore", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_checkpoint_arguments(parser)
    parser.add_argument("input", nargs="*", type=absolute, metavar="IMAGES",
                        help="images, folders of images, or videos")  # fmt: skip
    parser.add_argument("--images", type=int, metavar="N", help="show at most N photographs, spread over the "
                        "split or over IMAGES; default: 4 of a split, 12 of IMAGES")  # fmt: skip
    parser.add_argument("--split", metavar="NAME", help="such as train, in place of val")
    parser.add_argument("--iterations", type=int, metavar="T",
                        help="unroll this number of EM iterations; default: that of evaluation")  # fmt: skip
    parser.add_argument("--layer", metavar="NAME",
                        help="which EM layer, if the network has several; default: the first")  # fmt: skip
    parser.add_argument("--output", type=absolute, metavar="FILE", help="default: RUN/explore[-...].html")
    options, assignments = parse(parser)
    log_to_terminal()
    Run.open(options.run)  # an error before what takes seconds to import
    from hemnet.explore.writing import Wish, explore

    wish = Wish(options.input, options.images, options.iterations, options.layer)
    explore(options.run, wish, options.checkpoint, options.output, assignments)


if __name__ == "__main__":
    run_entry(_entry)
