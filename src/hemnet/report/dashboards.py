"""Make the figures of the report's page as a dashboard, a W&B report, on a server of W&B.

No runs are read here: W&B draws the panels from the runs of the project, also from later ones. Metrics and
columns are what runs log: ``setting``, ``T``, ``h`` and ``head`` in the configuration, ``val/miou`` and
others by step. As on the page, only runs of one setting are averaged, and unfinished and limited runs are
left out.
"""

import argparse
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from hemnet.config.command_line import log_to_terminal
from hemnet.errors import HemnetError
from hemnet.loggers import ITERATION, STEP
from hemnet.loggers.wandb_guard import obstacle, within
from hemnet.report.definitions import FIGURES, MIOU, Axis, Definition, Metric
from hemnet.runs.phases import PHASES
from hemnet.storage.destinations import named_by, require_own, require_writable
from hemnet.storage.files import read_json, write_json
from hemnet.storage.places import absolute

log = logging.getLogger(__name__)
INSTALL = "pip install 'hemnet[dashboards]'"
SAVE_SECONDS = 12.0
SETTING = "setting"
"""The column by whose values runs are averaged, see `hemnet.runs.run_settings.columns`."""
COUNTED = "State = 'finished' and Tags not in ['debug']"
"""The filter that leaves out runs which the page does not count."""
COLUMNS = ("experiment", SETTING, "head", "T", "h", "gradient", "variance", "seed", "sweep")
TITLE = "Highway EM: gradient flow and accuracy"
LEADERBOARD = "Leaderboard"
MISS = "Empty where no run logged it."
NOT_LOGGED = "W&B does not get the scores of trained runs at other T."
MEANS: dict[str, Any] = {
    "groupby_aggfunc": "mean", "groupby_rangefunc": "stderr", "max_runs_to_show": 1000,
}  # fmt: skip
"""Of runs that are grouped: their mean, with one standard error."""
Panel = Any
"""A panel of the module ``wandb_workspaces.reports.v2``, ``wr`` below, which only a dashboard imports."""


def _against(wr: Any, shown: Definition) -> list[Panel]:
    """Return a scatter plot against T or h, a point per run, and bars: the mean of each setting."""
    at, metric = shown.axis, shown.metric
    points = wr.ScatterPlot(title=shown.title, x=wr.Config(at), y=wr.SummaryMetric(metric.name))
    return [points, *_bars(wr, f"{shown.title}: mean of each setting", (metric,))]


def _grid(wr: Any, shown: Definition) -> list[Panel]:
    """Return a scatter plot over two settings: W&B has no heat map, and no η."""
    axes = {"x": wr.Config("T"), "y": wr.Config("h"), "z": wr.SummaryMetric(shown.metric.name)}
    return [wr.ScatterPlot(title=f"{shown.title}: the axis is h", **axes)]


def _elsewhere(wr: Any, shown: Definition) -> list[Panel]:
    return [wr.MarkdownPanel(markdown=f"**{shown.title}**: on the page of `hemnet report`. {NOT_LOGGED}")]


def _bars(wr: Any, title: str, metrics: Sequence[Metric]) -> list[Panel]:
    """Return a panel per metric, with a bar per setting: the mean over its runs."""
    return [
        wr.BarPlot(
            title=f"{title}: {metric.label}" if len(metrics) > 1 else title, metrics=[metric.name],
            orientation="v", groupby=wr.Config(SETTING), max_bars_to_show=100, **MEANS,
        )
        for metric in metrics
    ]  # fmt: skip


def _leaderboard(wr: Any) -> Panel:
    """Return the mean mIoU of every setting; the table of the runs is below it."""
    return wr.BarPlot(
        title="Mean mIoU of each setting, whose name begins with its data", metrics=[MIOU.name],
        orientation="h", groupby=wr.Config(SETTING), max_bars_to_show=100, **MEANS,
    )  # fmt: skip


def _over_steps(wr: Any, shown: Definition) -> list[Panel]:
    """Return lines over the optimizer step: a mean per setting."""
    return [
        wr.LinePlot(
            title=shown.title, x=STEP, y=[metric.name], groupby=wr.Config(SETTING),
            log_y=metric.log or None, title_x="step", **MEANS,
        )
        for metric in shown.metrics
    ]  # fmt: skip


def _over_iterations(wr: Any, shown: Definition) -> list[Panel]:
    """Return lines over the iteration t, a mean per setting: at the start, middle and end of training.

    A panel cannot subtract the value at t = 0, so of a gain it shows the values.
    """
    rising = "values, whose rise is the gain"
    return [
        wr.LinePlot(
            title=f"{shown.title}: {rising if metric.gain else metric.label}, {phase} of training",
            x=ITERATION, y=[f"{phase}/{metric.name}"], groupby=wr.Config(SETTING), log_y=metric.log or None,
            title_x="iteration t", **MEANS,
        )
        for metric in shown.metrics for phase in PHASES
    ]  # fmt: skip


def _images(wr: Any, shown: Definition) -> list[Panel]:
    """Return the images of every run, by step."""
    keys = [metric.name for metric in shown.metrics]
    return [
        wr.MediaBrowser(
            title=shown.title, media_keys=keys, mode="grid", grid_x_axis="step", grid_y_axis="run"
        )
    ]


def _parallel(wr: Any, shown: Definition) -> list[Panel]:
    """Return a line per run through its settings and its score."""
    column = wr.ParallelCoordinatesPlotColumn
    columns = [
        column(wr.Config(key), display_name=key.rpartition(".")[2])
        for key in ("head", "T", "h", "variance", "optim.optimizer.lr", "seed")
    ]
    mark = column(wr.SummaryMetric(shown.metric.name), display_name=shown.metric.label)
    return [wr.ParallelCoordinatesPlot(title=shown.title, columns=[*columns, mark])]


PANELS: dict[Axis, Callable[[Any, Definition], list[Panel]]] = {
    "T": _against,
    "h": _against,
    "T and h": _grid,
    "T of evaluation and h": _elsewhere,
    "iteration": _over_iterations,
    "step": _over_steps,
    "setting": lambda wr, shown: _bars(wr, shown.title, shown.metrics),
    "class": lambda wr, _: [wr.WeavePanelSummaryTable(table_name="val/iou_table")],
    "run": _parallel,
    "image": _images,
}
"""The panels of a figure, by what it is drawn against."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--entity", help="W&B user or team that owns the project; not needed with --json")
    parser.add_argument("--project", default="hemnet", help="default: hemnet")
    parser.add_argument("--sweep", help="show the runs of this sweep alone; default: those of all sweeps")
    parser.add_argument(
        "--experiment", help="show the runs of this recipe alone; default: those of all recipes"
    )
    parser.add_argument(
        "--json", type=absolute, metavar="FILE", help="write what would be sent; send nothing"
    )


def run(options: argparse.Namespace) -> None:
    """Create the dashboard and log its address, or write what would be sent.

    Raises:
        HemnetError: wandb-workspaces is not installed, or there is no key, no server or no permission; or the
            file cannot be written.
    """
    if not (options.entity or options.json):
        raise HemnetError("--entity is missing: give the W&B user or team that owns the project")
    report = dashboard(options.entity or "", options.project, options.sweep, options.experiment)
    if options.json:
        sent = payload(report)
        named = {key: sent[key] for key in ("entityName", "projectName", "displayName")}
        with named_by("--json", options.json):
            require_writable(options.json)
            require_own(options.json, read_json, named, maker="hemnet report wandb", option="--json")
            write_json(options.json, sent)
        log.info("%s holds the dashboard; nothing was sent", options.json)
        return
    problem = obstacle()
    if problem:
        raise HemnetError(f"the dashboard cannot be sent: {problem}; --json FILE writes it without a server")
    log.info("the dashboard is at %s", _save(report))


def dashboard(entity: str, project: str, sweep: str | None = None, experiment: str | None = None) -> Any:
    """Return the dashboard as a ``wandb_workspaces.reports.v2.Report``, not saved.

    Raises:
        HemnetError: wandb-workspaces is not installed.
    """
    wr = _workspaces()
    everything = {"sweep": sweep, "experiment": experiment}
    board = _laid_out(wr, [_leaderboard(wr)])
    blocks: list[Any] = [wr.TableOfContents(), wr.H2(LEADERBOARD),
                         wr.PanelGrid(runsets=[_runset(wr, everything)], panels=board)]  # fmt: skip
    for chapter, members in groupby(FIGURES, lambda shown: shown.chapter):
        figures = list(members)
        # EMANet has T and an h of 0, and would lie among the points of plain EM.
        apart = all(shown.em_alone or shown.axis == "T and h" for shown in figures)
        heads = ("em", "hem") if apart else (None,)
        panels = [panel for shown in figures for panel in PANELS[shown.axis](wr, shown)]
        runsets = [_runset(wr, {**everything, "head": head}) for head in heads]
        blocks += [wr.H2(chapter), wr.PanelGrid(runsets=runsets, panels=_laid_out(wr, panels))]
    named = [name for name in (experiment, sweep) if name]
    about = (
        f"Finished runs of {' in '.join(named) or 'the project'}: means of each setting, with one standard "
        "error. The digits at the end of a setting stand for all keys on which training depends, the seed "
        f"aside. {MISS}"
    )
    title = f"{TITLE} ({', '.join(named)})" if named else TITLE
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


def _runset(wr: Any, wanted: Mapping[str, str | None]) -> Any:
    """Return the runs that a figure draws, with the columns of the table below it.

    No project is named, so W&B takes the runs of the report's own project.
    """
    named = [f"Config('{key}') = {_quoted(key, value)}" for key, value in wanted.items() if value is not None]
    columns = ["run:displayName", *(f"config:{c}.value" for c in COLUMNS), "summary:val/miou"]
    name = wanted.get("head") or "finished runs"
    return wr.Runset(name=name, filters=" and ".join([*named, COUNTED]), pinned_columns=columns)


def _laid_out(wr: Any, panels: list[Any]) -> list[Any]:
    """Place panels in rows of two on W&B's grid of 24 columns."""
    for i, panel in enumerate(panels):
        panel.layout = wr.Layout(x=i % 2 * 12, y=i // 2 * 8, w=12, h=8)
    return panels


def _quoted(what: str, text: str) -> str:
    if set(text) & set("'\\=<>"):  # wandb_workspaces rewrites the last three, in quotes too
        raise HemnetError(f"{text!r} is no name for --{what}: it has a quote, a backslash, or one of = < >")
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
