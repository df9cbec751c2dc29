"""A finished run of STUDY.md: its cell of the plan, and its measures.

Shapes: S recorded steps, T iterations.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from omegaconf import OmegaConf
from over_runs import MEASURES, REFIT, REFIT_EPOCHS, of_last
from study_images import Counted, miou, read_counts

from hemnet.report import checks
from hemnet.report.groups import USUAL_MODE
from hemnet.report.record import Record
from hemnet.runs import phases
from hemnet.runs.evaluations import FOLDER, at_iterations, results_of
from hemnet.runs.run import EXTENDED, Run
from hemnet.runs.run_settings import ITERATIONS_EVAL, data_folder
from hemnet.storage.files import entry, read_table

BACKBONE = "gradient/backbone/all"
BETAS = [0.9, 0.999]
TENTHS = ("first", "middle", "last")
ROUNDED = 1e-6
"""Most by which a score may differ from that of its pixels."""


class Setting(NamedTuple):
    """What the runs of one cell of the plan share; T and h are None for heads without them."""

    head: str = "hem"
    T: int | None = 3
    h: float | str | None = 0.5
    e_step: str = "Eq. 8"
    control: str = ""

    def __str__(self) -> str:
        name = f"h = {self.h:g}, T = {self.T}, {self.e_step}" if self.head == "hem" else f"`{self.head}`"
        return f"{name}, {self.control}" if self.control else name


@dataclass(frozen=True)
class Finished:
    """A finished run, and what the report found in its files, which are checked there.

    A measure is None if the run did not record it, and NaN if it is undefined.
    """

    run: Run
    record: Record

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.record.identity.seed

    @property
    def circumstances(self) -> dict[str, object]:
        """What has to be the same in the runs of a comparison besides their configurations, where known."""
        device = str(self.record.result.get("device") or "")
        every = {
            "revision": self.record.revision if self.record.environment.get("git") else None,
            "threads": self.record.environment.get("cpu_threads"),
            "device": "cpu" if device.startswith("cpu") else device,
            "folder of the data": data_folder(self.record.config).casefold(),
            "labelled pixels of the validation split": self.record.result.get("labelled_pixels"),
        }
        return {what: value for what, value in every.items() if value}

    @property
    def backbone(self) -> np.ndarray:
        """Norms of the gradient of the backbone's parameters, (S,)."""
        return np.array([row[BACKBONE] for row in self.rows if BACKBONE in row])

    @cached_property
    def setting(self) -> Setting:
        """The run's cell, which need not be in the plan."""
        about = self.record.identity
        if about.head not in ("hem", "em"):
            # In the plan these heads have their default values, h = 0 and σ² = 1.
            other = "" if about.variance in (None, 1.0) else f"σ² = {about.variance:g}"
            return Setting(about.head, about.iterations, about.highway_scale or None, other, self.control)
        head = self.run.config.model.head
        temperature = math.sqrt(head.channels)
        variance = temperature if about.variance is None else about.variance
        known = {("dot", temperature): "Eq. 8", ("gaussian", 1.0): "σ² = 1"}
        # The paper's Eq. 7 has no factor 2: see `variance` of hemnet.em.unroll.
        known["gaussian", temperature / 2] = "Eq. 7"
        e_step = known.get((head.assignment, variance), f"{head.assignment}, σ² = {variance:g}")
        return Setting("hem", about.iterations, about.highway_scale, e_step, self.control)

    @property
    def control(self) -> str:
        """In what the run was trained differently, as a control of STUDY.md; "" if as in the plan."""
        config = self.run.config
        clip = config.trainer.get("gradient_clip_val")
        betas = [*(OmegaConf.select(config, "optim.optimizer.betas") or BETAS)]
        told = [f"clipped at {clip:g}"] if clip else []
        told += [f"betas {betas[0]:g} and {betas[1]:g}"] if betas != BETAS else []
        told += ["average corrected"] if config.model.head.get("correct_momentum") else []
        unit = config.model.head.get("normalize", "none") not in (None, "none")
        own = self.record.identity.head in ("hem", "em")
        told += ["unit means"] if unit and own else []
        gradient = self.record.identity.gradient
        told += [f"gradient {gradient}"] if own and gradient != USUAL_MODE else []
        later = self.record.settings.get(ITERATIONS_EVAL)
        told += [f"T = {later} in evaluation"] if later else []
        # No controls: runs of one seed can be paired if they share the order of the data, and a schedule.
        order = OmegaConf.select(config, "data.seed")
        told += [f"data in the order of seed {order}"] if order not in (None, self.seed) else []
        told += ["extended"] if self.record.environment.get(EXTENDED) else []
        return ", ".join(told)

    @cached_property
    def rows(self) -> list[dict[str, float]]:
        """The rows of metrics.csv; [] if that is damaged."""
        return self.run.metrics() if self.record.logged else []

    def shares(self, tenth: str) -> np.ndarray | None:
        """Return the mean of `gradient/share` of iterations 0 to T-1 over a tenth of the steps, sum 1."""
        mean_T = self.of_tenth("gradient/share", tenth)
        return None if mean_T is None else mean_T / mean_T.sum()

    def of_tenth(self, family: str, tenth: str) -> np.ndarray | None:
        """Return the mean of a metric of iterations 0 to T-1 over a tenth of the steps.

        None if it was not recorded of each iteration.
        """
        found = self.record.phases.get(family)
        if found is None or np.isnan(mean_T := found[TENTHS.index(tenth), :-1]).any():
            return None
        return mean_T

    def at_end(self, family: str) -> np.ndarray | None:
        """Return a metric of iterations 0 to T at the last step that was logged, (T+1,).

        None if one was not recorded there, as values are not that are not finite.
        """
        names = [f"{family}/{t:02d}" for t in range((self.setting.T or 0) + 1)]
        end = max((row["step"] for row in self.rows if "step" in row), default=None)
        for row in reversed(self.rows):
            if row.get("step") == end and all(name in row for name in names):
                return np.array([row[name] for name in names])
        return None

    @property
    def evaluated(self) -> dict[int, float]:
        """`val/miou` of the last checkpoint by T of evaluation."""
        return self.record.evaluated

    @cached_property
    def counted(self) -> Counted | None:
        """The pixels by image of the evaluation of the last checkpoint at the T of training.

        Raises:
            HemnetError: they are damaged, or give another score than that evaluation has.
        """
        own = results_of(self.run.path)
        for T in (None, self.setting.T):
            path = at_iterations(self.run.path / FOLDER / "last", T) / "counts.csv"
            if T in own and (found := read_counts(path)) is not None:
                with checks.reading(str(path)):
                    known, made = checks.evaluated(own[T]), miou(np.ones((1, len(found.images))), found)[0]
                    if abs(known - made) > ROUNDED:
                        raise ValueError(
                            f"its pixels have a mean IoU of {made:.4f}, and its result {known:.4f}"
                        )
                return found
        return None

    def measured(self, name: str, columns: Iterable[str], rows: int | None = None) -> dict[str, np.ndarray]:
        """Return columns of a table of measure.py of the run's first EM layer, NaN where a cell is empty.

        {} if there is no table, or if it is known to be of another checkpoint than the last.

        Args:
            name: of the table.
            columns: their headings.
            rows: how many it has; None for any number, and no empty cell.

        Raises:
            HemnetError: it has other rows, a column is missing, or a cell is no number.
        """
        path = self.run.path / MEASURES / f"{name}.csv"
        if of_last(self.run.path) is None or not path.is_file():
            return {}
        with checks.reading(str(path)):
            own = [row for row in read_table(path) if "layer" not in row]
            if missing := [column for column in columns if not any(column in row for row in own)]:
                raise ValueError(f"it has no column {', '.join(missing)}")
            if rows not in (None, len(own)):
                raise ValueError(f"it has {len(own)} rows of the first layer, and T of the run makes {rows}")
            cells = [row[column] for row in own for column in columns if rows is None or column in row]
            if not np.isfinite([float(cell) for cell in cells]).all():
                raise ValueError("a value is infinite or none")
            return {column: np.array([float(row.get(column, "nan")) for row in own]) for column in columns}

    @cached_property
    def refitted(self) -> dict[int, float]:
        """`val/miou` by T, with the layers after EM trained for it by refit.py; {} if it was not run.

        Raises:
            HemnetError: refit.json has something else than scores by T.
        """
        found = of_last(self.run.path, REFIT) or {}
        scores = entry(found, "val/miou", {}) if found.get("epochs") == REFIT_EPOCHS else {}
        with checks.reading(str(self.run.path / MEASURES / REFIT)):
            return {int(T): checks.evaluated({"metrics": {"val/miou": score}}) for T, score in scores.items()}


Measure = Callable[[Finished], float | None]


def score(run: Finished) -> float | None:
    """Return `val/miou` of the last step."""
    return run.record.miou if run.record.scored else None


def evaluated_at(T: int, run: Finished) -> float | None:
    """Return `val/miou` with T iterations in evaluation."""
    return run.evaluated.get(T)


def refitted_at(T: int, run: Finished) -> float | None:
    """Return `val/miou` with T iterations and the layers after them trained for it."""
    return run.refitted.get(T)


def evenness(run: Finished, tenth: str = "last") -> float | None:
    """Return how evenly the iterations share the gradient in a tenth of training, 1 at best."""
    shares_T = run.shares(tenth)
    return None if shares_T is None else phases.evenness(shares_T)


def step_ratio(run: Finished) -> float | None:
    """Return the geometric mean over t = 1 to T-1 of share(t-1) / share(t), in the last tenth."""
    shares_T = run.shares("last")
    return None if shares_T is None else float((shares_T[0] / shares_T[-1]) ** (1 / (len(shares_T) - 1)))


def readout_share(run: Finished) -> float | None:
    """Return the readout's share of the gradient to the features, in the last tenth."""
    found = run.record.phases.get("gradient/share")
    return None if found is None else float(found[TENTHS.index("last"), -1])


def first_gain(run: Finished) -> float | None:
    """Return the part of L(T) - L(0) gained in the first iteration; NaN if L(T) <= L(0)."""
    found_T = run.at_end("em/log_likelihood")
    if found_T is None:
        return None
    gain = found_T[-1] - found_T[0]
    return float((found_T[1] - found_T[0]) / gain) if gain > 0 else math.nan
