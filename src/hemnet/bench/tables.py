"""Reports as text, above all that of the EM benchmark, in tables that are Markdown as they stand."""

from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from hemnet.bench.report import Report, Result, Verdict
from hemnet.bench.timing import paired

# Wide enough for every table, so that they read the same on a terminal, in a pipe and in a file.
WIDTH = 180


def print_report(report: Report) -> None:
    """Print the measurements, what was left out and the verdicts."""
    console = Console(width=WIDTH, highlight=False, markup=False)
    rates = ", ".join(f"{rate / 1e9:.0f} GFlop/s in {dtype}" for dtype, rate in report.rates.items())
    console.print(f"{report.environment['device']}, {report.environment['cpu_threads']} CPU threads")
    console.print(f"measured: {report.bandwidth / 1e9:.1f} GB/s of memory, {rates}")
    for dtype in report.dtypes:
        shape = " ".join(f"{name}{size}" for name, size in report.shape.items())
        console.print(f"\n{shape}, {dtype} features, median milliseconds; ratios with quartiles\n")
        console.print(_times(report, dtype))
        console.print(f"\n{dtype}: peak memory at the largest T over the smallest\n")
        console.print(_growth(report, dtype))
        console.print(f"\n{dtype}: highway (h = 0.5) over plain EM (h = 0), forward+backward\n")
        console.print(_pairs(report, dtype))
    console.print()
    for line in _absences(report):
        console.print(line, soft_wrap=True)
    console.print("\nThe project's bars\n")
    console.print(verdict_table(report.verdicts))


def markdown(columns: str, text_columns: int = 1) -> Table:
    """Return an empty table of these columns, "name | name | ..."; the first few are text, to the left."""
    table = Table(box=box.MARKDOWN)
    for index, name in enumerate(columns.split(" | ")):
        table.add_column(name, justify="left" if index < text_columns else "right", no_wrap=True)
    return table


def _times(report: Report, dtype: str) -> Table:
    table = markdown(
        "contender | T | forward | / reference | x bound | fwd+bwd | / reference | x bound | peak MB | rounds"
        " | compile s"
    )
    for result in (result for result in report.results if result.dtype == dtype):
        base = report.base(result)
        table.add_row(
            result.contender,
            str(result.iterations),
            *_pass(result.forward, base.forward, result.forward_bound),
            *_pass(result.forward_backward, base.forward_backward, result.forward_backward_bound),
            f"{result.peak_bytes / 1e6:.1f}",
            _rounds(result),
            "" if result.compile_seconds is None else f"{result.compile_seconds:.0f}",
        )
    return table


def _pass(times: list[float], base: list[float], bound: float) -> tuple[str, str, str]:
    ratio = "1" if times is base else str(paired(times, base))
    return f"{1000 * median(times):.2f}", ratio, f"{median(times) / bound:.1f}"


def _rounds(result: Result) -> str:
    return f"{len(result.forward)}, {len(result.forward_backward)}"


def _growth(report: Report, dtype: str) -> Table:
    table = markdown("contender | ratio | T over T")
    for contender in dict.fromkeys(result.contender for result in report.results):
        growth = report.growth(dtype, contender)
        if growth is not None:
            ratio, last, first = growth
            table.add_row(contender, f"{ratio:.2f}", f"{last} / {first}")
    return table


def _pairs(report: Report, dtype: str) -> Table:
    table = markdown("engine | T | time | memory | rounds")
    for pair in (pair for pair in report.pairs if pair.dtype == dtype):
        table.add_row(
            pair.engine, str(pair.iterations), str(pair.time), f"{pair.memory:.3f}", str(len(pair.plain))
        )
    return table


def _absences(report: Report) -> list[str]:
    depths: dict[tuple[str, str, str], list[str]] = {}
    for absence in report.absences:
        key = (absence.contender, absence.dtype, absence.reason)
        depths.setdefault(key, []).append(str(absence.iterations))
    return [
        f"left out: {contender}, {dtype}, T={', '.join(found)}: {reason}"
        for (contender, dtype, reason), found in depths.items()
    ]


def verdict_table(verdicts: list[Verdict]) -> Table:
    """Return bars, figures and verdicts as a table."""
    table = markdown("bar | figure | verdict", text_columns=3)
    for verdict in verdicts:
        table.add_row(verdict.bar, verdict.figure, verdict.verdict)
    return table
