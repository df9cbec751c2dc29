"""What a run of the EM benchmark measured, as plain data."""

from dataclasses import dataclass, field
from typing import Any

from hemnet.bench.timing import Ratio, paired


@dataclass(frozen=True)
class Result:
    """One contender at one T; times in seconds, one a round.

    Attributes:
        dtype: of the features.
        iterations: T.
        contender: one of `hemnet.bench.contenders.NAMES`.
        forward: times without a graph.
        forward_backward: times with the gradients to x and mu.
        errors: against float64, see `hemnet.bench.agreement`.
        peak_bytes: the most memory that forward + backward took on top of the inputs.
        forward_bound: `hemnet.bench.roofline`, in seconds.
        forward_backward_bound: the same.
        compile_seconds: what compiling took, if it was compiled.
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
class Pair:
    """An engine with the highway and as plain EM, forward + backward, in rounds of their own."""

    dtype: str
    iterations: int
    engine: str
    highway: list[float]
    plain: list[float]
    highway_peak_bytes: int
    plain_peak_bytes: int

    @property
    def time(self) -> Ratio:
        """Highway over plain."""
        return paired(self.highway, self.plain)

    @property
    def memory(self) -> float:
        """Highway over plain."""
        return self.highway_peak_bytes / self.plain_peak_bytes


@dataclass(frozen=True)
class Absence:
    """A contender that did not take part, and why."""

    dtype: str
    iterations: int
    contender: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """A bar of the project, the figure held against it, and how that went."""

    bar: str
    figure: str
    verdict: str


@dataclass
class Report:
    """Everything that was measured.

    Attributes:
        environment: as in a run directory.
        device: "cpu" or "cuda".
        shape: B, N, C and K.
        bandwidth: bytes per second.
        rates: floating-point operations per second, by the type of the factors.
        results: per type, T and contender.
        pairs: per type, T and engine.
        absences: what is missing among the results.
        verdicts: the bars.
    """

    environment: dict[str, Any]
    device: str
    shape: dict[str, int]
    bandwidth: float
    rates: dict[str, float] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    def find(self, dtype: str, iterations: int, contender: str) -> Result | None:
        """The result, if there is one."""
        key = (dtype, iterations, contender)
        return next((r for r in self.results if (r.dtype, r.iterations, r.contender) == key), None)

    def of(self, dtype: str, contender: str) -> list[Result]:
        """The results of a contender, by rising T."""
        return [r for r in self.results if (r.dtype, r.contender) == (dtype, contender)]

    def base(self, result: Result) -> Result:
        """The reference's result of the same rounds; the reference always takes part."""
        found = self.find(result.dtype, result.iterations, "reference")
        assert found is not None
        return found

    def growth(self, dtype: str, contender: str) -> tuple[float, int, int] | None:
        """Peak memory at the largest T over that at the smallest, and both T; None without two."""
        results = self.of(dtype, contender)
        if len(results) < 2:
            return None
        first, last = results[0], results[-1]
        return last.peak_bytes / first.peak_bytes, last.iterations, first.iterations

    @property
    def dtypes(self) -> list[str]:
        """Types in the order they were measured."""
        return list(dict.fromkeys(result.dtype for result in self.results))
