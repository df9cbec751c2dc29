"""Segment images with a trained network."""

import hemnet.lab

import argparse

from hemnet.config.command_line import add_run_arguments, log_to_terminal, parse, run_entry
from hemnet.runs.run import Run
from hemnet.storage.places import absolute


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet predict", description=__doc__)
    add_run_arguments(parser)
    parser.add_argument("input", type=absolute, help="an image, a folder of images, or a video")
    parser.add_argument("--output", type=absolute, help="folder to write to; default: RUN/predictions[-...]")
    parser.add_argument("--confidence", action="store_true",
                        help="write the probability of each pixel's class too, as a grey image")  # fmt: skip
    parser.add_argument("--probabilities", action="store_true",
                        help="write the probabilities of all classes too, as .npz")  # fmt: skip
    parser.add_argument("--batch", type=int, metavar="N",
                        help="images of one size in a pass; default: data.eval_batch_size")  # fmt: skip
    options, assignments = parse(parser)
    if options.batch is not None:
        assignments.append(f"data.eval_batch_size={options.batch}")
    log_to_terminal()
    Run.open(options.run)  # an error before what takes seconds to import
    from hemnet.using.prediction import Wanted, predict

    wanted = Wanted(options.confidence, options.probabilities)
    predict(options.run, options.input, options.checkpoint, options.output, assignments, wanted)


if __name__ == "__main__":
    run_entry(_entry)
