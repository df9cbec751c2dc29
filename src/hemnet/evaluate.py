"""Score trained networks on a split of their data sets, or of others.

The results, result.json, classes.csv, images.csv, counts.csv, confusion.png and worst.png, are written to
the folder RUN/evaluation/CHECKPOINT[-inference options][-changed keys]/, or with --iterations to a folder
T<n> in it for each number of EM iterations.

Several runs, or folders of runs, are evaluated each in its own process, without repeating evaluations.
--sweep NAME takes runs and iterations from experiments/evaluations/NAME.yaml.
"""

import hemnet.lab

import argparse

from hemnet.config.command_line import add_run_arguments, log_to_terminal, parse, run_entry
from hemnet.errors import HemnetError
from hemnet.storage.places import absolute
from hemnet.sweeps.evaluate_runs import evaluate_runs, read_sweep


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet evaluate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_run_arguments(parser, several=True)
    parser.add_argument("--iterations", nargs="+", type=int, default=[], metavar="T",
                        help="evaluate with each of these numbers of EM iterations")  # fmt: skip
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="such as test; default: val. data=NAME takes another data set",
    )
    parser.add_argument("--worst", type=int, metavar="N",
                        help="images on worst.png; default: 8, and none of several runs")  # fmt: skip
    one = parser.add_argument_group("for one run")
    one.add_argument("--output", type=absolute, metavar="DIR", help="folder to write to")
    one.add_argument("--voc-submission", type=absolute, metavar="DIR",
                     help="write a results/ folder for the PASCAL VOC test server to DIR")  # fmt: skip
    many = parser.add_argument_group("for several runs")
    many.add_argument(
        "--sweep", metavar="NAME", help="take runs and T from experiments/evaluations/NAME.yaml"
    )
    many.add_argument("--parallel", type=int, metavar="N",
                      help="runs at a time; default: as many as there are GPUs for, or 1 on CPU")  # fmt: skip
    options, assignments = parse(parser)
    if options.worst is not None and options.worst < 0:
        raise HemnetError(f"--worst {options.worst}: give a number of 0 or more")
    if options.parallel is not None and options.parallel < 1:
        raise HemnetError(f"--parallel {options.parallel}: give a number of 1 or more")
    log_to_terminal()
    folders, iterations = options.run, options.iterations
    if options.sweep:
        runs, depths = read_sweep(options.sweep)
        folders, iterations = folders or runs, iterations or depths
    if not folders:
        raise HemnetError("name a run directory, a folder of runs, or a sweep of evaluations with --sweep")
    if options.sweep is None and len(folders) == 1 and (folders[0] / "config.yaml").is_file():
        if options.parallel is not None:
            raise HemnetError("--parallel is for several runs: leave it out, or name a folder of runs")
        from hemnet.using.evaluation import evaluate  # here, as it takes seconds, which --help does without

        evaluate(folders[0], options.checkpoint, assignments, iterations=iterations, output=options.output,
                 worst=8 if options.worst is None else options.worst,
                 submission=options.voc_submission)  # fmt: skip
        return
    if options.output or options.voc_submission:
        raise HemnetError("--output and --voc-submission are for one run: name its directory alone")
    evaluate_runs(folders, options.checkpoint, assignments, iterations=iterations, parallel=options.parallel,
                  worst=options.worst or 0)  # fmt: skip


if __name__ == "__main__":
    run_entry(_entry)
