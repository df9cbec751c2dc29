"""The paper's figures as a W&B report: ``python -m hemnet.report wandb --entity E --project P``.

No runs are read here: W&B draws the panels from the runs of the project, also from later ones. Metrics and
columns are what runs log: ``T``, ``h`` and ``head`` in the configuration, ``val/miou`` and others by step.
"""

import argparse
import json
import logging
import os
from collections.abc import Callable
from typing import Any

from hemnet.config.command_line import log_to_terminal
from hemnet.errors import HemnetError
from hemnet.loggers import ITERATION, STEP
from hemnet.loggers.wandb_guard import obstacle, within
from hemnet.runs.phases import PHASES
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


Panel = Callable[[Any], Any]
"""Makes a panel out of the module ``wandb_workspaces.reports.v2``, which only a dashboard imports."""


def _against(column: str, metric: str, title: str) -> Panel:
    """Return a scatter plot of a metric against a column: a point per run."""
    return lambda wr: wr.ScatterPlot(title=title, x=wr.Config(column), y=wr.SummaryMetric(metric))


def _bars(metric: str, column: str, title: str) -> Panel:
    """Return a bar per value of a column: the mean over its runs, with the standard error."""
    return lambda wr: wr.BarPlot(
        title=title, metrics=[metric], orientation="v", groupby=wr.Config(column), groupby_aggfunc="mean",
        groupby_rangefunc="stderr", max_runs_to_show=1000, max_bars_to_show=100,
    )  # fmt: skip


def _lines(pattern: str, column: str, title: str, *, log_y: bool | None = None) -> Panel:
    """Return lines over the optimizer step: a mean per value of a column."""
    return lambda wr: wr.LinePlot(
        title=title, x=STEP, metric_regex=f"^{pattern}$", groupby=wr.Config(column), groupby_aggfunc="mean",
        groupby_rangefunc="stderr", max_runs_to_show=1000, log_y=log_y, title_x="step",
    )  # fmt: skip


def _over_iterations(family: str, title: str, *, log_y: bool | None = None) -> list[Panel]:
    """Return lines over the iteration t, a mean per h: at the start, middle and end of training."""

    def panel(phase: str) -> Panel:
        return lambda wr: wr.LinePlot(
            title=f"{title}, {phase} of training", x=ITERATION, y=[f"{phase}/{family}"],
            groupby=wr.Config("h"), groupby_aggfunc="mean", groupby_rangefunc="stderr",
            max_runs_to_show=1000, log_y=log_y, title_x="iteration t",
        )  # fmt: skip

    return [panel(phase) for phase in PHASES]


def _images(key: str, title: str) -> Panel:
    """Return the images of every run, by step."""
    return lambda wr: wr.MediaBrowser(
        title=title, media_keys=[key], mode="grid", grid_x_axis="step", grid_y_axis="run"
    )


def _parallel(title: str) -> Panel:
    """Return a line per run through its settings and its mIoU."""

    def make(wr: Any) -> Any:
        column = wr.ParallelCoordinatesPlotColumn
        columns = [
            column(wr.Config(key), display_name=key.rpartition(".")[2])
            for key in ("head", "T", "h", "variance", "optim.optimizer.lr", "seed")
        ]
        mark = column(wr.SummaryMetric("val/miou"), display_name="mIoU")
        return wr.ParallelCoordinatesPlot(title=title, columns=[*columns, mark])

    return make


FIGURES: dict[str, list[Panel]] = {
    "Accuracy": [
        _against("T", "val/miou", "mIoU against T"),
        _bars("val/miou", "T", "mean mIoU for each T"),
        _against("h", "val/miou", "mIoU against the highway scale h"),
        _bars("val/miou", "h", "mean mIoU for each h"),
    ],
    "Gradient flow through the iterations": [
        _against("T", "gradient/means/00", "gradient at the initial means, relative to the last, against T"),
        _bars("gradient/means/00", "h", "gradient at the initial means, relative to the last, for each h"),
        *_over_iterations("gradient/share", "share of the features' gradient that iteration t injects"),
        *_over_iterations("gradient/means", "gradient at the means, relative to the last", log_y=True),
        _lines(r"gradient/means_last", "T", "gradient at the last means", log_y=True),
    ],
    "Gradient into the backbone": [
        _lines(r"gradient/backbone/.*", "head", "gradient norm of each stage", log_y=True),
        _lines(r"gradient/backbone/all", "T", "gradient norm of the backbone, for each T", log_y=True),
    ],
    "Convergence of EM": [
        *_over_iterations("em/log_likelihood", "log-likelihood, nats per position"),
        *_over_iterations("em/step_length", "relative step of the means", log_y=True),
        *_over_iterations("em/components", "effective number of components"),
        *_over_iterations("em/entropy", "entropy of the responsibilities, nats"),
        _lines(r"em/occupancy_(min|max)/\d+", "h", "least and most occupied component"),
    ],
    "Learning curves": [
        _lines(name, by, f"{name} for each {by}")
        for name in ("val/miou", "val/loss", "train/loss")
        for by in ("head", "T")
    ],
    "Cost": [
        *(_bars(key, "head", title) for key, title in COSTS.items()),
        _against("T", "cost/seconds_per_step", "median seconds a step against T"),
    ],
    "Predictions and attention": [
        _images("val/predictions", "image, truth, prediction"), _images("em/attention", "attention"),
    ],
    "Runs": [
        _parallel("settings and mIoU"), lambda wr: wr.WeavePanelSummaryTable(table_name="val/iou_table"),
    ],
}  # fmt: skip
"""The panels of each figure, by its title."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--entity", help="W&B user or team that owns the project; not needed with --json")
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
    if not (options.entity or options.json):
        raise HemnetError("--entity is missing: give the W&B user or team that owns the project")
    report = dashboard(options.entity or "", options.project, options.sweep)
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
    for title, panels in FIGURES.items():
        runsets = [_runset(wr, sweep, head) for head in (("em", "hem") if title in EM_AND_HEM else (None,))]
        blocks += [
            wr.H2(title),
            wr.PanelGrid(runsets=runsets, panels=_laid_out(wr, [panel(wr) for panel in panels])),
        ]
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
    try:
        return within(SAVE_SECONDS, lambda: report.save().url)
    except TimeoutError as error:
        raise HemnetError(
            f"the W&B server took the connection but did not answer in {SAVE_SECONDS:.0f} s"
        ) from error
    except Exception as error:
        raise HemnetError(
            f"the W&B server did not take the dashboard: {error}; check entity, project and API key"
        ) from error


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="hemnet report wandb", description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    log_to_terminal()
    run(parser.parse_args(argv))
