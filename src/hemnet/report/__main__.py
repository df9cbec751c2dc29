"""The report on runs: ``python -m hemnet.report [FOLDER ...]`` writes report/index.html.

``python -m hemnet.report wandb ...`` creates a dashboard with the same figures on a W&B server.
"""

import hemnet.lab

import argparse
import logging
import sys

from hemnet.config.command_line import log_to_terminal, run_entry
from hemnet.storage.places import absolute


def _page() -> None:
    parser = argparse.ArgumentParser(
        prog="hemnet report",
        description="Write one page, with figures and tables, on all runs in the folders: means over seeds "
        "with 95% intervals, paired tests, gradient flow, convergence, cost. Reads only run directories.",
    )
    parser.add_argument(
        "folders", nargs="*", type=absolute, default=[absolute("runs")], metavar="FOLDER",
        help="run directories, or folders that hold some, such as runs/sweeps/smoke; default: runs",
    )  # fmt: skip
    parser.add_argument("--out", type=absolute, default="report", metavar="FOLDER", help="default: report")
    parser.add_argument("--no-images", action="store_true", help="leave predictions and attention maps out")
    parser.epilog = "hemnet report wandb --help: the same figures as a dashboard on a W&B server"
    options = parser.parse_args()
    from hemnet.report.write import write_report  # here, so that --help does not load matplotlib

    write_report(options.folders, options.out, images=not options.no_images)


def _entry() -> None:
    if sys.argv[1:2] == ["wandb"]:
        from hemnet.report import dashboards

        dashboards.main(sys.argv[2:])
        return
    log_to_terminal()
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # logs every glyph that a PDF embeds
    _page()


if __name__ == "__main__":
    run_entry(_entry)
