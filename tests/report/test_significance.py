"""Intervals and tests against textbooks and SciPy's own tests."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from hemnet.report.estimates import estimate, logarithms, ratio, score
from hemnet.report.significance import Comparison, compare, holm, listed, sentence


def test_interval_of_a_textbook_sample() -> None:
    # t of 97.5% is 12.706, 4.303 and 2.776 at 1, 2 and 4 degrees of freedom.
    for values, quantile in (
        ([1.0, 3.0], 12.706),
        ([2.0, 4.0, 6.0], 4.303),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 2.776),
    ):
        found = estimate(values)
        assert found is not None
        half = quantile * np.sqrt(np.var(values, ddof=1) / len(values))
        assert (found.mean, found.half_width) == (np.mean(values), pytest.approx(half, rel=1e-3))
        assert found.low == pytest.approx(found.mean - half, rel=1e-2)


def test_estimates_without_an_interval() -> None:
    assert estimate([]) is None
    assert estimate([float("nan")]) is None
    assert (one := estimate([0.5, float("nan")])) is not None
    assert (one.mean, one.low, one.high, one.half_width, one.n) == (0.5, None, None, None, 1)


values = st.lists(st.floats(0, 1), min_size=2, max_size=8)


@given(values, st.randoms())
def test_paired_test_is_scipys(first: list[float], random) -> None:
    second = [random.random() for _ in first]
    assume(np.std(np.subtract(first, second)) > 1e-6)  # SciPy warns of rounding below that, and of 0/0
    found = compare("", ("a", dict(enumerate(first))), ("b", dict(enumerate(second))))
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found.difference is not None
    assert found.above == sum(map(float.__gt__, first, second))
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.difference.low, found.difference.high) == pytest.approx(
        (interval.low, interval.high), abs=1e-9
    )


def test_only_common_seeds_with_a_score_are_paired() -> None:
    a, b = {0: 0.5, 1: 0.7, 2: float("nan"), 4: 0.9}, {1: 0.6, 2: 0.1, 3: 0.2, 4: 0.7}
    found = compare("T=3", ("hem", a), ("em", b))
    assert found.seeds == (1, 4)
    assert found.above == 2
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.15)
    assert compare("", ("a", {0: 1.0}), ("b", {1: 1.0})).verdict == "no seed has a value in both"
    assert compare("", ("a", {0: 1.0}), ("b", {0: 0.5})).verdict == "no interval from one seed"


@pytest.mark.parametrize("by", [0.0, 0.3, 1e-9])
def test_what_differs_by_the_same_in_every_seed_is_not_judged(by: float) -> None:
    """Chance cannot be told from no spread, also where rounding leaves one of a few digits."""
    same = {0: 0.5, 1: 0.6, 2: 0.7}
    higher = {seed: float(np.float32(value + by)) for seed, value in same.items()}
    (found,) = holm([compare("", ("a", higher), ("b", same))], conclusive=True)
    assert (found.p, found.p_holm) == (None, None)
    assert found.verdict == "not judged (no spread between the seeds)"
    assert sentence(found).endswith("n=3 seeds): not judged (no spread between the seeds).")


def _with_p(p: float | None) -> Comparison:
    return Comparison("", "a", "b", estimate([0.0, 1.0, 1.0]), p, (0, 1, 2), 2)


def test_holm_of_the_worked_example() -> None:
    # Holm's step-down: 0.01 x 4, 0.02 x 3, 0.03 x 2 raised to the one before, 0.04 x 1 raised likewise.
    corrected = holm([_with_p(p) for p in (0.03, 0.01, None, 0.04, 0.02)], conclusive=True)
    assert [c.p_holm for c in corrected] == [
        pytest.approx(0.06), pytest.approx(0.04), None, pytest.approx(0.06), pytest.approx(0.06),
    ]  # fmt: skip
    assert [c.supported for c in corrected] == [False, True, False, False, False]


def test_what_cannot_be_judged_costs_the_others_nothing() -> None:
    """Two seeds, no spread, no seed: none of them can be called supported, so none is part of the family."""
    judged = compare("", ("a", {0: 0.61, 1: 0.63, 2: 0.62}), ("b", {0: 0.6, 1: 0.6, 2: 0.6}))
    two = compare("", ("a", {0: 0.61, 1: 0.63}), ("b", {0: 0.6, 1: 0.6}))
    equal = compare("", ("a", {0: 0.6, 1: 0.6, 2: 0.6}), ("b", {0: 0.5, 1: 0.5, 2: 0.5}))
    none = compare("", ("a", {0: 0.6}), ("b", {1: 0.5}))
    found = holm([two, judged, equal, none], conclusive=True)
    assert [c.p_holm for c in found] == [None, judged.p, None, None]
    assert [c.p_holm for c in holm([judged, two], conclusive=False)] == [None, None]
    assert "p=" in sentence(found[0])
    assert "after Holm" not in sentence(found[0])


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_the_mean_of_ratios_is_that_of_the_inverse_ratios_inverted(ratios: list[float]) -> None:
    one, other = (
        ratio(estimate([*logarithms(dict(enumerate(values))).values()]))
        for values in (ratios, [1 / each for each in ratios])
    )
    assert one is not None
    assert other is not None
    assert one.mean == pytest.approx(stats.gmean(ratios))
    assert one.mean == pytest.approx(1 / other.mean)
    if len(ratios) > 1:
        assert one.low <= one.mean <= one.high
        assert (one.low, one.high) == pytest.approx((1 / other.high, 1 / other.low), rel=1e-6)


def test_seeds_are_listed_as_ranges() -> None:
    assert listed([3]) == "seed 3"
    assert listed([0, 1]) == "seeds 0, 1"
    assert listed([0, 2, 3, 4, 9]) == "seeds 0, 2 to 4, 9"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_p_and_bonferroni(ps: list[float]) -> None:
    for p, found in zip(ps, holm([_with_p(p) for p in ps], conclusive=True), strict=True):
        assert found.p_holm is not None
        assert p <= found.p_holm <= min(1.0, len(ps) * p) + 1e-12


def test_sentences() -> None:
    family = holm([
        compare("T=8", ("hem", {0: 0.82, 1: 0.83, 2: 0.81}), ("em", {0: 0.80, 1: 0.81, 2: 0.789})),
        compare("T=3", ("hem", {0: 0.82, 1: 0.80, 2: 0.81}), ("em", {0: 0.80, 1: 0.81, 2: 0.81})),
        compare("T=1", ("hem", {0: 0.82}), ("em", {0: 0.80})),
        compare("T=2", ("hem", {0: 0.82}), ("em", {1: 0.80})),
    ], conclusive=True)  # fmt: skip
    supported, noise, one, none = map(sentence, family)
    assert supported.startswith(
        "hem vs em at T=8: +0.020 mIoU (95% interval +0.019 to +0.022, n=3 seeds, p<0.001"
    )
    assert supported.endswith("after Holm): supported.")
    assert noise.endswith(": inside the noise.")
    assert one == "hem vs em at T=1: +0.020 mIoU on seed 0 alone: no interval from one seed."
    assert none == "hem vs em at T=2: no seed has a value in both, so nothing to compare."


@given(values)
def test_the_interval_of_a_score_is_the_t_interval_cut_at_0_and_1(scores: list[float]) -> None:
    found, uncut = score(scores), estimate(scores)
    assert found is not None
    assert uncut is not None
    assert (found.low, found.high) == (max(uncut.low, 0.0), min(uncut.high, 1.0))
    assert found.half_width == uncut.half_width, "what is cut is drawn and printed, not the width itself"
    assert found.cut == (uncut.low < 0 or uncut.high > 1)
    assert not uncut.cut, "times and ratios have no bounds"
    assert np.allclose(found.mean + np.array([-1, 1]) * found.reach, (found.low, found.high))


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("conclusive", [True, False])
def test_supported_takes_three_seeds_and_scores_that_tell_something(seeds: int, conclusive: bool) -> None:
    """However clear the difference: 0.3 with a standard deviation of a thousandth."""
    first = {seed: 0.8 + 0.001 * (seed % 2) for seed in range(seeds)}
    second = dict.fromkeys(range(seeds), 0.5)
    (found,) = holm([compare("", ("hem", first), ("em", second))], conclusive=conclusive)
    assert found.supported == (seeds >= 3 and conclusive) == ("supported" in sentence(found))
    if seeds > 1:
        assert found.p is not None
        assert found.p < 0.05
        told = "not judged (fewer than 3 seeds)" if conclusive else "not judged (recipe not conclusive)"
        assert found.verdict == ("supported" if found.supported else told)


def test_only_seeds_that_both_sides_have_count_towards_three() -> None:
    first, second = {0: 0.8, 1: 0.81, 2: 0.8, 3: 0.82}, {0: 0.5, 1: 0.51, 7: 0.5, 8: 0.51}
    (found,) = holm([compare("", ("hem", first), ("em", second))], conclusive=True)
    assert (found.seeds, found.verdict) == ((0, 1), "not judged (fewer than 3 seeds)")
