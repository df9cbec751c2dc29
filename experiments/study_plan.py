"""Every test and control of STUDY.md as data: the two sides, the number of seeds, and the family."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from study_finished import Finished, Measure, Setting, evaluated_at, evenness, first_gain, refitted_at, score

EMANET = Setting("emanet", 3, None, "")


class Contrast(NamedTuple):
    """``measure`` of ``first`` less ``other`` (by default the same measure) of ``second``.

    ``claimed`` is the sign of the difference according to the paper, 0 if the paper makes no claim.
    """

    first: Setting
    second: Setting
    claimed: int = 1
    measure: Measure = score
    other: Measure | None = None
    about: str = ""

    @property
    def name(self) -> str:
        """The two sides, or what it is about."""
        return self.about or f"{self.first} against {self.second}"


class Family(NamedTuple):
    """Contrasts that are corrected together, over seeds 0 to ``seeds`` - 1."""

    title: str
    seeds: int
    contrasts: Sequence[Contrast]

    @property
    def settings(self) -> set[Setting]:
        """The settings of its contrasts."""
        return {setting for contrast in self.contrasts for setting in contrast[:2]}


def at_iterations(
    setting: Setting,
    T: int,
    claimed: int,
    trained: int,
    measure: Callable[[int, Finished], float | None] = evaluated_at,
) -> Contrast:
    """Return the contrast of an evaluation at T with one at the T of training."""
    measures = partial(measure, T), partial(measure, trained)
    return Contrast(setting, setting, claimed, *measures, f"{setting}: T_eval = {T} against {trained}")


def plan() -> list[Family]:
    """Return every test of STUDY.md."""
    half, none = Setting(), Setting(h=0.0)
    deep = [Setting(T=T, h=h) for T in (8, 16) for h in (0.5, 0.0, 0.9)]
    heads = [EMANET, Setting("fcn", None, None, "")]
    old = [Setting(T=8, h=h, e_step="σ² = 1") for h in (0.5, 0.0)]
    eq7 = [Setting(h=h, e_step="Eq. 7") for h in (0.5, 0.0)]
    return [
        Family("Primary", 8, [Contrast(half, none)]),
        Family("Baselines", 8, [Contrast(half, head) for head in heads]),
        Family("Depth", 3, [
            Contrast(*pair)
            for h5, h0, h9 in (deep[:3], deep[3:])
            for pair in ((h5, h0), (h9, h0), (h5, h9))
        ]),
        Family("Bridge", 3, [Contrast(*old)]),
        Family("Eq. 7", 3, [Contrast(*eq7), Contrast(eq7[0], half, claimed=0)]),
        *(
            Family(f"T_eval, h = {side.h:g}", 8, [
                at_iterations(side, 6, 1, 3), at_iterations(side, 16, -1, 3)
            ])
            for side in (half, none)
        ),
        Family("T_eval, deep", 3, [
            at_iterations(side, T, 0, side.T) for side in deep for T in (2 * side.T, 1)
        ]),
        Family("Evenness of the gradient's shares, last tenth", 8, [Contrast(half, none, 1, evenness)]),
        Family("Part of the likelihood's gain in the first iteration", 8, [
            Contrast(half, none, -1, first_gain)
        ]),
    ]  # fmt: skip


def exploratory() -> list[Family]:
    """Return the contrasts of the controls, which are no part of the plan and have no verdict."""
    bridge, half = Setting(T=8, e_step="σ² = 1"), Setting()
    clipped, quick = "clipped at 10", "betas 0.9 and 0.95"
    unit, flat = (Setting(h=h, e_step="dot, σ² = 1", control="unit means") for h in (0.5, 0.0))
    detached = Setting(control="gradient detached")
    corrected = [Setting(T=8, h=h, control="average corrected") for h in (0.5, 0.9)]
    return [
        *(
            Family(title, 3, [
                Contrast(bridge._replace(control=control), bridge._replace(h=0.0, control=control)),
                *(
                    Contrast(bridge._replace(h=h, control=control), bridge._replace(h=h), claimed=0)
                    for h in (0.0, 0.5)
                ),
            ])
            for title, control in (("Clipped, σ² = 1", clipped), ("β2 = 0.95, σ² = 1", quick))
        ),
        Family("β2 = 0.95", 3, [
            Contrast(half._replace(control=quick), Setting(h=0.0, control=quick)),
            *(Contrast(Setting(h=h, control=quick), Setting(h=h), claimed=0) for h in (0.5, 0.0)),
        ]),
        Family("Evenness of the gradient's shares at many iterations", 3, [
            Contrast(Setting(T=T), Setting(T=T, h=0.0), 1, evenness) for T in (8, 16)
        ]),
        Family("T_eval with the layers after EM trained for it", 8, [
            at_iterations(half, T, 0, 3, refitted_at) for T in (1, 6, 16)
        ]),
        Family("Unit means", 3, [
            Contrast(unit, half, claimed=0), Contrast(unit, flat, claimed=0),
            Contrast(EMANET, flat, claimed=0),
        ]),
        Family("No gradient through the EM layer", 3, [
            Contrast(detached, half, claimed=0), Contrast(EMANET, detached, claimed=0),
        ]),
        Family("Moving average corrected for h", 3, [
            *(Contrast(setting, Setting(T=8, h=0.0), claimed=0) for setting in corrected),
            *(Contrast(setting, setting._replace(control=""), claimed=0) for setting in corrected),
        ]),
    ]  # fmt: skip
