"""What experiments/study_power.py says of pairs, against numbers worked out by hand and simulated tests."""

from pathlib import Path

import numpy as np
import pytest
from _helpers.study_pages import GAINS, PRIMARY, cells, page, write_primary
from scipy import stats
from study_power import ASKED, power

SPREAD, POWER = "## How the differences of pairs vary", "## What so many pairs can show"


@pytest.mark.parametrize(("pairs", "difference", "level"), ASKED)
def test_the_power_is_how_often_a_paired_t_test_finds_the_difference(
    pairs: int, difference: float, level: float
) -> None:
    draws = np.random.default_rng(0).normal(difference, 0.0103, (50_000, pairs))
    t, p = stats.ttest_1samp(draws, 0.0, axis=1)
    found = float(((p < level) & (t > 0)).mean())
    assert power(pairs, difference, 0.0103, level) == pytest.approx(found, abs=0.01)  # four standard errors


def test_the_spread_of_the_primary_differences_by_hand(tmp_path: Path) -> None:
    write_primary(tmp_path)
    _, found, asked = page(tmp_path).replace(POWER, SPREAD).split(SPREAD)
    # sqrt(4e-4 / 7)
    assert cells(found, f"Primary | {PRIMARY}")[1:] == ["8", "0.0076", "0.0100", "0.0300"]
    assert "With the primary standard deviation, 0.0076." in asked
    assert cells(asked, "8 | 0.008")[-1] == f"{power(8, 0.008, (4e-4 / 7) ** 0.5, 0.05):.2f}"


@pytest.mark.parametrize("gains", [GAINS[:7], [0.0] * 8, [0.01 + 1e-9 * i for i in range(8)]])
def test_no_power_without_every_pair_or_without_a_spread(tmp_path: Path, gains: list) -> None:
    write_primary(tmp_path, gains)
    found = page(tmp_path)
    assert SPREAD in found
    assert POWER not in found
