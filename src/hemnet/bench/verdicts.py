"""The project's bars for the EM engines, held against a report. A bar that is not met is no error."""

from statistics import median

from hemnet.bench.report import Pair, Report, Result, Verdict
from hemnet.bench.timing import paired

MEMORY_GROWTH = 1.15
FORWARD_BACKWARD = {16: 0.85, 3: 1.0}
FORWARD = 1.0
HIGHWAY_TIME, HIGHWAY_MEMORY = 1.02, 1.01
TRITON_SPEEDUP, TRITON_BOUND, TRITON_DTYPE, TRITON_DEPTH = 4.0, 3.0, "bfloat16", 8


def verdicts(report: Report) -> list[Verdict]:
    """Return every bar with its figure, for each type that was measured; the worst T where none is named."""
    found = []
    for dtype in report.dtypes:
        found.append(_memory_growth(report, dtype))
        found += [_forward_backward(report, dtype, depth) for depth in FORWARD_BACKWARD]
        found.append(_forward(report, dtype))
        pairs = [pair for pair in report.pairs if pair.dtype == dtype]
        for engine in dict.fromkeys(pair.engine for pair in pairs):
            found += _highway(dtype, engine, [pair for pair in pairs if pair.engine == engine])
    return found + _triton(report)


def _memory_growth(report: Report, dtype: str) -> Verdict:
    growth, plain = report.growth(dtype, "recompute"), report.growth(dtype, "reference")
    bar = f"{dtype}: memory of recompute, largest over smallest T, <= {MEMORY_GROWTH}"
    if growth is None or plain is None:
        return _missing(bar, "it takes recompute at two T or more")
    ratio, last, first = growth
    figure = f"{ratio:.3f} (T={last} over T={first}; reference {plain[0]:.1f})"
    return _judge(bar, figure, ratio <= MEMORY_GROWTH)


def _forward_backward(report: Report, dtype: str, depth: int) -> Verdict:
    limit = FORWARD_BACKWARD[depth]
    bar = f"{dtype}: fwd+bwd, recompute over reference, T={depth}, <= {limit}"
    result = report.find(dtype, depth, "recompute")
    if result is None:
        return _missing(bar, f"recompute did not run at T={depth}")
    ratio = paired(result.forward_backward, report.base(result).forward_backward)
    return _judge(bar, str(ratio), ratio.median <= limit)


def _forward(report: Report, dtype: str) -> Verdict:
    bar = f"{dtype}: no_grad forward, recompute over reference, any T, <= {FORWARD}"
    results = report.of(dtype, "recompute")
    if not results:
        return _missing(bar, "recompute did not run")
    ratio, depth = max((paired(r.forward, report.base(r).forward), r.iterations) for r in results)
    return _judge(bar, f"{ratio} at T={depth}", ratio.median <= FORWARD)


def _highway(dtype: str, engine: str, pairs: list[Pair]) -> list[Verdict]:
    time, slowest = max((pair.time, pair.iterations) for pair in pairs)
    memory, largest = max((pair.memory, pair.iterations) for pair in pairs)
    return [
        _judge(
            f"{dtype}: HEM over EM, time of {engine}, any T, <= {HIGHWAY_TIME}",
            f"{time} at T={slowest}",
            time.median <= HIGHWAY_TIME,
        ),
        _judge(
            f"{dtype}: HEM over EM, memory of {engine}, any T, <= {HIGHWAY_MEMORY}",
            f"{memory:.3f} at T={largest}",
            memory <= HIGHWAY_MEMORY,
        ),
    ]


def _triton(report: Report) -> list[Verdict]:
    where = f"{TRITON_DTYPE}: fwd+bwd of triton, T={TRITON_DEPTH}"
    faster = f"{where}, times faster than reference, >= {TRITON_SPEEDUP:g}"
    near = f"{where}, over the roofline bound, <= {TRITON_BOUND:g}"
    result = report.find(TRITON_DTYPE, TRITON_DEPTH, "triton")
    if result is None:
        reason = _why_no_triton(report)
        return [_missing(faster, reason), _missing(near, reason)]
    speedup = paired(report.base(result).forward_backward, result.forward_backward)
    over = _over_bound(result)
    return [
        _judge(faster, str(speedup), speedup.median >= TRITON_SPEEDUP),
        _judge(near, f"{over:.2f}", over <= TRITON_BOUND),
    ]


def _over_bound(result: Result) -> float:
    return median(result.forward_backward) / result.forward_backward_bound


def _why_no_triton(report: Report) -> str:
    if report.device != "cuda":
        return "no CUDA device" if report.environment["device"].startswith("cpu") else "not run on CUDA"
    reasons = {absence.reason for absence in report.absences if absence.contender == "triton"}
    return next(iter(reasons), f"triton did not run in {TRITON_DTYPE} at T={TRITON_DEPTH}")


def _judge(bar: str, figure: str, met: bool) -> Verdict:
    return Verdict(bar, figure, "met" if met else "not met")


def _missing(bar: str, reason: str) -> Verdict:
    return Verdict(bar, "", f"not measured: {reason}")
