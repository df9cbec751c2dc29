"""The project's targets for the EM engines, held against the results. A missed target is no error."""

from collections.abc import Iterator
from statistics import median
from typing import Literal

from hemnet.bench.results import EngineFindings, HighwayPair, LayerTimes, Verdict
from hemnet.bench.timing import paired

MEMORY_GROWTH = 1.15
FORWARD_BACKWARD = {16: 0.85, 3: 1.0}
FORWARD = 1.0
LAYER, LAYER_DEPTHS, LAYER_COMPILED, LAYER_FORWARD = 1.0, {16: 0.85}, 1.1, 1.0
HIGHWAY_TIME, HIGHWAY_MEMORY = 1.02, 1.01
TRITON_SPEEDUP, TRITON_BOUND, TRITON_DTYPE, TRITON_DEPTH = 4.0, 3.0, "bfloat16", 8


def verdicts(found: EngineFindings) -> list[Verdict]:
    """Return a verdict per target and measured dtype; a target that names no T is judged at the worst one."""
    made: list[Verdict] = []
    for dtype in found.dtypes:
        made.append(_memory_growth(found, dtype))
        made += [_forward_backward(found, dtype, depth) for depth in FORWARD_BACKWARD]
        made.append(_forward(found, dtype))
        pairs = [pair for pair in found.pairs if pair.dtype == dtype]
        for engine in dict.fromkeys(pair.engine for pair in pairs):
            made += _highway(dtype, engine, [pair for pair in pairs if pair.engine == engine])
    return [*made, *_layer(found), *_triton(found)]


def _memory_growth(found: EngineFindings, dtype: str) -> Verdict:
    growth, plain = found.growth(dtype, "recompute"), found.growth(dtype, "reference")
    target = f"{dtype}: memory of recompute, largest over smallest T, <= {MEMORY_GROWTH}"
    if growth is None or plain is None:
        return _missing(target, "it takes recompute at two T or more")
    ratio, last, first = growth
    figure = f"{ratio:.3f} (T={last} over T={first}; reference {plain[0]:.1f})"
    return _judge(target, figure, ratio <= MEMORY_GROWTH)


def _forward_backward(found: EngineFindings, dtype: str, depth: int) -> Verdict:
    limit = FORWARD_BACKWARD[depth]
    target = f"{dtype}: fwd+bwd, recompute over reference, T={depth}, <= {limit}"
    result = found.find(dtype, depth, "recompute")
    if result is None:
        return _missing(target, f"recompute did not run at T={depth}")
    ratio = paired(result.forward_backward, found.base(result).forward_backward)
    return _judge(target, str(ratio), ratio.median <= limit)


def _forward(found: EngineFindings, dtype: str) -> Verdict:
    target = f"{dtype}: no_grad forward, recompute over reference, any T, <= {FORWARD}"
    results = found.of(dtype, "recompute")
    if not results:
        return _missing(target, "recompute did not run")
    ratio, depth = max((paired(r.forward, found.base(r).forward), r.iterations) for r in results)
    return _judge(target, f"{ratio} at T={depth}", ratio.median <= FORWARD)


def _highway(dtype: str, engine: str, pairs: list[HighwayPair]) -> Iterator[Verdict]:
    start = f"{dtype}: HEM over EM,"
    time, slowest = max((pair.time, pair.iterations) for pair in pairs)
    target = f"{start} time of {engine}, any T, <= {HIGHWAY_TIME}"
    yield _judge(target, f"{time} at T={slowest}", time.median <= HIGHWAY_TIME)
    memory, largest = max((pair.memory, pair.iterations) for pair in pairs)
    target = f"{start} memory of {engine}, any T, <= {HIGHWAY_MEMORY}"
    yield _judge(target, f"{memory:.3f} at T={largest}", memory <= HIGHWAY_MEMORY)


def _layer(found: EngineFindings) -> Iterator[Verdict]:
    """The layer over plain autograd, by threads: each target at the setting where it is farthest from met."""
    for threads in dict.fromkeys(times.threads for times in found.layer):
        settings = [times for times in found.layer if times.threads == threads]
        start = f"layer over plain, {threads} {'thread' if threads == 1 else 'threads'}:"
        yield _worst(f"{start} fwd+bwd, any T, <= {LAYER}", LAYER, settings)
        for depth, limit in LAYER_DEPTHS.items():
            deep = [times for times in settings if times.iterations == depth]
            yield _worst(f"{start} fwd+bwd, T={depth}, <= {limit}", limit, deep)
        target = f"{start} fwd+bwd, plain compiled, <= {LAYER_COMPILED}"
        compiled = [times for times in settings if "compiled" in times.forward_backward]
        yield _worst(target, LAYER_COMPILED, compiled, "compiled")
        target = f"{start} forward, any T, <= {LAYER_FORWARD}"
        yield _worst(target, LAYER_FORWARD, settings, quantity="forward")


def _worst(
    target: str,
    limit: float,
    settings: list[LayerTimes],
    base: str = "plain",
    quantity: Literal["forward", "forward_backward"] = "forward_backward",
) -> Verdict:
    if not settings:
        return _missing(target, "not among what was measured")
    ratios = []
    for times in settings:
        seconds: dict[str, list[float]] = getattr(times, quantity)
        ratios.append((paired(seconds["layer"], seconds[base]), times.setting, times.iterations))
    ratio, setting, depth = max(ratios)
    over = sum(other.median > limit for other, _, _ in ratios)
    return _judge(
        target, f"{ratio} at {setting}, T={depth}; {over} of {len(ratios)} over", ratio.median <= limit
    )


def _triton(found: EngineFindings) -> list[Verdict]:
    where = f"{TRITON_DTYPE}: fwd+bwd of triton, T={TRITON_DEPTH}"
    faster = f"{where}, times faster than reference, >= {TRITON_SPEEDUP:g}"
    near = f"{where}, over the roofline bound, <= {TRITON_BOUND:g}"
    result = found.find(TRITON_DTYPE, TRITON_DEPTH, "triton")
    if result is None:
        reason = _why_no_triton(found)
        return [_missing(faster, reason), _missing(near, reason)]
    speedup = paired(found.base(result).forward_backward, result.forward_backward)
    over = median(result.forward_backward) / result.forward_backward_bound
    return [
        _judge(faster, str(speedup), speedup.median >= TRITON_SPEEDUP),
        _judge(near, f"{over:.2f}", over <= TRITON_BOUND),
    ]


def _why_no_triton(found: EngineFindings) -> str:
    if found.device != "cuda":
        return "no CUDA device" if found.environment["device"].startswith("cpu") else "not run on CUDA"
    reasons = {absence.reason for absence in found.absences if absence.contender == "triton"}
    return next(iter(reasons), f"triton did not run in {TRITON_DTYPE} at T={TRITON_DEPTH}")


def _judge(target: str, figure: str, met: bool) -> Verdict:
    return Verdict(target, figure, "met" if met else "not met")


def _missing(target: str, reason: str) -> Verdict:
    return Verdict(target, "", f"not measured: {reason}")
