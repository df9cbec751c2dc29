"""Segment images with a trained network: ``python -m hemnet.predict RUN INPUT``."""

import hemnet.lab

import argparse

from hemnet.config.command_line import add_run_arguments, log_to_terminal, parse, run_entry
from hemnet.runs.run import Run
from hemnet.storage.places import absolute


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet predict", description=__doc__)
    add_run_arguments(parser)
    parser.add_argument("input", type=absolute, help="an image, or a folder of images")
    parser.add_argument("--output", type=absolute, help="folder to write to; default: RUN/predictions[-...]")
    options, assignments = parse(parser)
    log_to_terminal()
    Run.open(options.run)  # an error before what takes seconds to import
    from hemnet.using.prediction import predict

    predict(options.run, options.input, options.checkpoint, options.output, assignments)


if __name__ == "__main__":
    run_entry(_entry)
