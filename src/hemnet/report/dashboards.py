"""The paper's figures as a W&B report: ``python -m hemnet.report wandb --entity E --project P``.

No runs are read here: W&B draws the panels from the runs of the project, also from later ones. Metrics and
columns are what runs log: ``T``, ``h`` and ``head`` in the configuration, ``val/miou`` and others by step.
"""

import argparse
import json
import logging
import os
import threading
from typing import Any

from hemnet.config.command_line import log_to_terminal
from hemnet.errors import HemnetError
from hemnet.loggers import STEP
from hemnet.loggers.wandb_guard import obstacle
from hemnet.storage.places import absolute

log = logging.getLogger(__name__)
INSTALL = "pip install 'hemnet[dashboards]'"
SAVE_SECONDS = 12.0
COLUMNS = ("head", "T", "h", "gradient", "variance", "seed", "sweep")
TITLE = "Highway EM: gradient flow and accuracy"
MISS = "Empty where no run logged it."
# Figures that draw em and hem as two sets of runs; the others draw all runs as one.
EM_AND_HEM = ("Accuracy", "Gradient flow through the iterations", "Convergence of EM")
COSTS = {
    "cost/seconds_per_step": "median seconds a step", "cost/peak_memory_mib": "peak memory, MiB",
    "cost/parameters": "parameters", "cost/em_parameters": "parameters of the EM layer",
    "cost/gflops": "GFLOPs, forward, one image",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--entity", required=True, help="W&B user or team that owns the project")
    parser.add_argument("--project", default="hemnet", help="default: hemnet")
    parser.add_argument("--sweep", help="show the runs of this sweep alone; default: all runs")
    parser.add_argument(
        "--json", type=absolute, metavar="FILE", help="write what would be sent; send nothing"
    )


def run(options: argparse.Namespace) -> None:
    """Create the dashboard and log its address, or write what would be sent.

    Raises:
        HemnetError: wandb-workspaces is not installed, or there is no key, no server or no permission.
    """
    report = dashboard(options.entity, options.project, options.sweep)
    if options.json:
        options.json.write_text(json.dumps(payload(report), indent=2) + "\n", "utf-8")
        log.info("%s holds the dashboard; nothing was sent", options.json)
        return
    problem = obstacle()
    if problem:
        raise HemnetError(f"the dashboard cannot be sent: {problem}; --json FILE writes it without a server")
    log.info("the dashboard is at %s", _save(report))


def dashboard(entity: str, project: str, sweep: str | None = None) -> Any:
    """Return the dashboard as a ``wandb_workspaces.reports.v2.Report``, not saved.

    Raises:
        HemnetError: wandb-workspaces is not installed.
    """
    wr = _workspaces()
    blocks: list[Any] = [wr.TableOfContents()]
    for title, panels in _figures(wr).items():
        runsets = [_runset(wr, sweep, head) for head in (("em", "hem") if title in EM_AND_HEM else (None,))]
        blocks += [wr.H2(title), wr.PanelGrid(runsets=runsets, panels=_laid_out(wr, panels))]
    of_what = f"of the sweep {sweep}" if sweep else "of all runs"
    about = f"Means {of_what}, with one standard error where runs are grouped. {MISS}"
    title = f"{TITLE} ({sweep})" if sweep else TITLE
    return wr.Report(
        entity=entity, project=project, title=title[:128], description=about, blocks=blocks, width="fluid"
    )


def payload(report: Any) -> dict[str, Any]:
    """Return what saving a report sends, as plain containers."""
    model = report._to_model()
    return {
        "entityName": model.project.entity_name,
        "projectName": model.project.name,
        "displayName": model.display_name,
        "description": model.description,
        "type": "runs",
        "spec": json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True)),
    }


def _runset(wr: Any, sweep: str | None, head: str | None = None) -> Any:
    """Return the runs that a figure draws, with the columns of the table below it.

    No project is named, so W&B takes the runs of the report's own project.
    """
    wanted = {"sweep": sweep, "head": head}
    filters = " and ".join(f"Config('{key}') = {_quoted(v)}" for key, v in wanted.items() if v is not None)
    columns = ["run:displayName", *(f"config:{c}.value" for c in COLUMNS), "summary:val/miou"]
    return wr.Runset(name=head or "all runs", filters=filters, pinned_columns=columns)


def _figures(wr: Any) -> dict[str, list[Any]]:
    """Return the panels of each figure by its title."""

    def lines(pattern: str, column: str, title: str, log_y: bool | None = None) -> Any:
        return _lines(wr, pattern, column, title, log_y)

    first = "gradient at the initial means, relative to the last,"
    column = wr.ParallelCoordinatesPlotColumn
    columns = [
        column(wr.Config(key), display_name=key.rpartition(".")[2])
        for key in ("head", "T", "h", "variance", "optim.optimizer.lr", "seed")
    ]
    return {
        "Accuracy": [
            _against(wr, "T", "val/miou", "mIoU against T"),
            _bars(wr, ["val/miou"], "T", "mean mIoU for each T"),
            _against(wr, "h", "val/miou", "mIoU against the highway scale h"),
            _bars(wr, ["val/miou"], "h", "mean mIoU for each h"),
        ],
        "Gradient flow through the iterations": [
            _against(wr, "T", "gradient/means/00", f"{first} against T"),
            _bars(wr, ["gradient/means/00"], "h", f"{first} for each h"),
            lines(r"gradient/means/\d+", "T", "gradient of the means per iteration, for each T", log_y=True),
            lines(r"gradient/means/\d+", "h", "gradient of the means per iteration, for each h", log_y=True),
            lines(r"gradient/share/\d+", "T", "share of the features' gradient that each iteration injects"),
            lines(r"gradient/means_last", "T", "gradient at the last means", log_y=True),
        ],
        "Gradient into the backbone": [
            lines(r"gradient/backbone/.*", "head", "gradient norm of each stage", log_y=True),
            lines(r"gradient/backbone/all", "T", "gradient norm of the backbone, for each T", log_y=True),
        ],
        "Convergence of EM": [
            lines(r"em/log_likelihood/\d+", "h", "log-likelihood after each iteration, nats per position"),
            lines(r"em/step_length/\d+", "h", "relative step of the means at each iteration", log_y=True),
            lines(r"em/components/\d+", "h", "effective number of components"),
            lines(r"em/entropy/\d+", "h", "entropy of the responsibilities, nats"),
            lines(r"em/occupancy_(min|max)/\d+", "h", "least and most occupied component"),
        ],
        "Learning curves": [
            lines(name, by, f"{name} for each {by}")
            for name in ("val/miou", "val/loss", "train/loss")
            for by in ("head", "T")
        ],
        "Cost": [
            *(_bars(wr, [key], "head", title) for key, title in COSTS.items()),
            _against(wr, "T", "cost/seconds_per_step", "median seconds a step against T"),
        ],
        "Predictions and attention": [
            wr.MediaBrowser(title=title, media_keys=[key], mode="grid", grid_x_axis="step", grid_y_axis="run")
            for key, title in (("val/predictions", "image, truth, prediction"), ("em/attention", "attention"))
        ],
        "Runs": [
            wr.ParallelCoordinatesPlot(
                title="settings and mIoU",
                columns=[*columns, column(wr.SummaryMetric("val/miou"), display_name="mIoU")],
            ),
            wr.WeavePanelSummaryTable(table_name="val/iou_table"),
        ],
    }


def _against(wr: Any, column: str, metric: str, title: str) -> Any:
    """Return a point per run."""
    return wr.ScatterPlot(title=title, x=wr.Config(column), y=wr.SummaryMetric(metric))


def _bars(wr: Any, metrics: list[str], column: str, title: str) -> Any:
    """Return a bar per value of a column: the mean over its runs, with the standard error."""
    return wr.BarPlot(
        title=title, metrics=metrics, orientation="v", groupby=wr.Config(column), groupby_aggfunc="mean",
        groupby_rangefunc="stderr", max_runs_to_show=1000, max_bars_to_show=100,
    )  # fmt: skip


def _lines(wr: Any, pattern: str, column: str, title: str, log_y: bool | None = None) -> Any:
    """Return lines over the optimizer step: a mean per value of a column."""
    return wr.LinePlot(
        title=title, x=STEP, metric_regex=f"^{pattern}$", groupby=wr.Config(column), groupby_aggfunc="mean",
        groupby_rangefunc="stderr", max_runs_to_show=1000, log_y=log_y, title_x="step",
    )  # fmt: skip


def _laid_out(wr: Any, panels: list[Any]) -> list[Any]:
    """Place panels in rows of two on W&B's grid of 24 columns."""
    for i, panel in enumerate(panels):
        panel.layout = wr.Layout(x=i % 2 * 12, y=i // 2 * 8, w=12, h=8)
    return panels


def _quoted(text: str) -> str:
    if "'" in text or "\\" in text:
        raise HemnetError(f"{text!r} is not the name of a sweep: it has a quote or a backslash")
    return f"'{text}'"


def _workspaces() -> Any:
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError as error:
        raise HemnetError(f"the dashboard needs the package wandb-workspaces: {INSTALL}") from error
    return wr


def _save(report: Any) -> str:
    """Save a report and return its address; wait for the server for `SAVE_SECONDS` at most."""
    os.environ.setdefault("WANDB_SILENT", "true")
    outcome: list[str | Exception] = []

    def save() -> None:
        try:
            outcome.append(report.save().url)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=save, daemon=True)
    thread.start()
    thread.join(SAVE_SECONDS)
    if not outcome:
        raise HemnetError(f"the W&B server took the connection but did not answer in {SAVE_SECONDS:.0f} s")
    if isinstance(outcome[0], Exception):
        raise HemnetError(
            f"the W&B server did not take the dashboard: {outcome[0]}; check entity, project and API key"
        ) from outcome[0]
    return outcome[0]


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="hemnet report wandb", description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    log_to_terminal()
    run(parser.parse_args(argv))
