"""Benchmark results as text, in tables that are valid Markdown."""

from collections.abc import Iterable, Iterator
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from hemnet.bench.results import EngineFindings, Verdict
from hemnet.bench.timing import paired

# Wide enough for every table, so that tables look the same on a terminal, in a pipe and in a file.
WIDTH = 200


def wide_console() -> Console:
    """Return what benchmarks print to: as wide as the tables, without colours or markup."""
    return Console(width=WIDTH, highlight=False, markup=False)


def markdown(columns: str, rows: Iterable[Iterable[object]] = (), text_columns: int = 1) -> Table:
    """Return a table with the columns "name | name | ..."; the first ``text_columns`` are left-aligned."""
    table = Table(box=box.MARKDOWN)
    for index, name in enumerate(columns.split(" | ")):
        table.add_column(name, justify="left" if index < text_columns else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    return table


def print_findings(found: EngineFindings) -> None:
    """Print the measurements, the contenders that did not run, and the verdicts."""
    console = wide_console()
    rates = ", ".join(f"{rate / 1e9:.0f} GFlop/s in {dtype}" for dtype, rate in found.rates.items())
    console.print(f"{found.environment['device']}, {found.environment['cpu_threads']} CPU threads")
    console.print(f"measured: {found.bandwidth / 1e9:.1f} GB/s of memory, {rates}")
    for dtype in found.dtypes:
        shape = " ".join(f"{name}{size}" for name, size in found.shape.items())
        console.print(f"\n{shape}, {dtype} features, median milliseconds; ratios with quartiles\n")
        console.print(_times(found, dtype))
        console.print(f"\n{dtype}: peak memory at the largest T over the smallest\n")
        console.print(markdown("contender | ratio | T over T", _growth(found, dtype)))
        console.print(f"\n{dtype}: highway (h = 0.5) over plain EM (h = 0), forward+backward\n")
        pairs = [
            (p.engine, p.iterations, p.time, f"{p.memory:.3f}", len(p.plain))
            for p in found.pairs if p.dtype == dtype
        ]  # fmt: skip
        console.print(markdown("engine | T | time | memory | rounds", pairs))
    console.print()
    for line in _absences(found):
        console.print(line, soft_wrap=True)
    if found.layer:
        console.print("\nthe layer, median milliseconds; ratios to plain autograd, and to it compiled\n")
        console.print(_layer(found))
    console.print("\nThe project's targets\n")
    console.print(verdict_table(found.verdicts))


def _times(found: EngineFindings, dtype: str) -> Table:
    rows = []
    for result in (result for result in found.results if result.dtype == dtype):
        base = found.base(result)
        rows.append((
            result.contender, result.iterations,
            *_pass(result.forward, base.forward, result.forward_bound),
            *_pass(result.forward_backward, base.forward_backward, result.forward_backward_bound),
            f"{result.peak_bytes / 1e6:.1f}", f"{len(result.forward)}, {len(result.forward_backward)}",
            "" if result.compile_seconds is None else f"{result.compile_seconds:.0f}",
        ))  # fmt: skip
    return markdown(
        "contender | T | forward | / reference | x bound | fwd+bwd | / reference | x bound | peak MB | rounds"
        " | compile s",
        rows,
    )


def _layer(found: EngineFindings) -> Table:
    rows = []
    for times in found.layer:
        both, compiled = times.forward_backward, times.forward_backward.get("compiled")
        rows.append((
            times.setting, times.library, times.threads, times.clock, times.iterations,
            f"{1000 * median(times.forward['layer']):.2f}",
            paired(times.forward["layer"], times.forward["plain"]),
            f"{1000 * median(both['layer']):.2f}",
            paired(both["layer"], both["plain"]),
            "" if compiled is None else paired(both["layer"], compiled),
            f"{len(times.forward['layer'])}, {len(both['layer'])}",
        ))  # fmt: skip
    columns = "images | large products in | threads | clock | T | forward | / plain | fwd+bwd | / plain"
    return markdown(f"{columns} | / compiled | rounds", rows, text_columns=2)


def _pass(times: list[float], base: list[float], bound: float) -> tuple[str, str, str]:
    ratio = "1" if times is base else str(paired(times, base))
    return f"{1000 * median(times):.2f}", ratio, f"{median(times) / bound:.1f}"


def _growth(found: EngineFindings, dtype: str) -> Iterator[tuple[str, str, str]]:
    for contender in dict.fromkeys(result.contender for result in found.results):
        if growth := found.growth(dtype, contender):
            ratio, last, first = growth
            yield contender, f"{ratio:.2f}", f"{last} / {first}"


def _absences(found: EngineFindings) -> list[str]:
    depths: dict[tuple[str, str, str], list[str]] = {}
    for absence in found.absences:
        key = (absence.contender, absence.dtype, absence.reason)
        depths.setdefault(key, []).append(str(absence.iterations))
    return [
        f"left out: {contender}, {dtype}, T={', '.join(Ts)}: {reason}"
        for (contender, dtype, reason), Ts in depths.items()
    ]


def verdict_table(verdicts: list[Verdict]) -> Table:
    """Return targets, figures and verdicts as a table."""
    rows = [(verdict.bar, verdict.figure, verdict.verdict) for verdict in verdicts]
    return markdown("target | figure | verdict", rows, text_columns=3)
