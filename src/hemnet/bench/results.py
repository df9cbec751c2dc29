"""What the benchmark of the EM engines measured, as plain data."""

from dataclasses import dataclass, field
from typing import Any

from hemnet.bench.timing import Ratio, paired


@dataclass(frozen=True)
class EngineTimes:
    """One contender at one T; times in seconds, one per round.

    Attributes:
        dtype: of the features.
        iterations: T.
        contender: one of `hemnet.bench.arguments.CONTENDERS`.
        forward: times without a graph.
        forward_backward: times with the gradients to x and mu.
        errors: against float64, see `hemnet.bench.agreement`.
        peak_bytes: peak memory of forward + backward on top of the inputs.
        forward_bound: lower bound on the time of the forward pass in seconds, see `hemnet.bench.roofline`.
        forward_backward_bound: the same for forward + backward.
        compile_seconds: time that compiling took; None if the contender is not compiled.
    """

    dtype: str
    iterations: int
    contender: str
    forward: list[float]
    forward_backward: list[float]
    errors: dict[str, float]
    peak_bytes: int
    forward_bound: float
    forward_backward_bound: float
    compile_seconds: float | None


@dataclass(frozen=True)
class HighwayPair:
    """Forward + backward of an engine with the highway and as plain EM: seconds in the same rounds."""

    dtype: str
    iterations: int
    engine: str
    highway: list[float]
    plain: list[float]
    highway_peak_bytes: int
    plain_peak_bytes: int

    @property
    def time(self) -> Ratio:
        """Time with the highway over time without."""
        return paired(self.highway, self.plain)

    @property
    def memory(self) -> float:
        """Peak memory with the highway over that without."""
        return self.highway_peak_bytes / self.plain_peak_bytes


@dataclass(frozen=True)
class LayerTimes:
    """The layer and what takes its place, in one setting: seconds per round, by "layer", "plain", "compiled".

    Attributes:
        shape: sizes by name.
        layout: memory format of the images.
        threads: of PyTorch.
        iterations: T.
        clock: the function of Python's `time` that was read.
        library: what the layer's large products ran in.
        forward: without a graph.
        forward_backward: with the gradients to features and means.
    """

    shape: dict[str, int]
    layout: str
    threads: int
    iterations: int
    clock: str
    library: str
    forward: dict[str, list[float]]
    forward_backward: dict[str, list[float]]

    @property
    def setting(self) -> str:
        """Sizes and layout in words."""
        sizes = " ".join(f"{name}{size}" for name, size in zip("BNCK", self.shape.values(), strict=True))
        return f"{sizes}, {self.layout}"


@dataclass(frozen=True)
class Absence:
    """A contender that did not run, and why."""

    dtype: str
    iterations: int
    contender: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """A target of the project (the "bar"), the figure measured for it, and whether the target was met."""

    bar: str
    figure: str
    verdict: str


@dataclass
class EngineFindings:
    """Everything that the benchmark of the engines measured.

    Attributes:
        environment: as in a run directory.
        device: "cpu" or "cuda".
        shape: B, N, C and K.
        bandwidth: bytes per second.
        rates: floating-point operations per second, by the dtype of the factors.
        results: one per dtype, T and contender.
        pairs: one per dtype, T and engine.
        absences: contenders missing from the results.
        layer: one per shape, layout, number of threads and T.
        verdicts: one per target.
    """

    environment: dict[str, Any]
    device: str
    shape: dict[str, int]
    bandwidth: float
    rates: dict[str, float] = field(default_factory=dict)
    results: list[EngineTimes] = field(default_factory=list)
    pairs: list[HighwayPair] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    layer: list[LayerTimes] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    def find(self, dtype: str, iterations: int, contender: str) -> EngineTimes | None:
        """Return the result of a contender at one T, if there is one."""
        return next((r for r in self.of(dtype, contender) if r.iterations == iterations), None)

    def of(self, dtype: str, contender: str) -> list[EngineTimes]:
        """Return the results of a contender, by rising T."""
        return [r for r in self.results if (r.dtype, r.contender) == (dtype, contender)]

    def base(self, result: EngineTimes) -> EngineTimes:
        """Return the result of the reference in the same rounds; the reference always runs."""
        found = self.find(result.dtype, result.iterations, "reference")
        assert found is not None
        return found

    def growth(self, dtype: str, contender: str) -> tuple[float, int, int] | None:
        """Return peak memory at the largest T over that at the smallest, and both T; None without two T."""
        results = self.of(dtype, contender)
        if len(results) < 2:
            return None
        first, last = results[0], results[-1]
        return last.peak_bytes / first.peak_bytes, last.iterations, first.iterations

    @property
    def dtypes(self) -> list[str]:
        """Dtypes in the order in which they were measured."""
        return list(dict.fromkeys(result.dtype for result in self.results))
