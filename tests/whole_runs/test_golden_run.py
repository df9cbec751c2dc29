"""Twelve steps of training give the numbers that they always gave, to within what processors round."""

import json
import subprocess
import sys
from typing import Any

import pytest
from _helpers.golden_run import (
    GOLDEN,
    GREY_LEVELS,
    PROCESSORS,
    STEPS,
    TOLERANCE,
    augmented,
    difference,
    distances,
    golden_run,
    versions,
)
from _helpers.golden_run import __file__ as golden_run_file

RENEW = 'if that is meant: python tests/_helpers/golden_run.py --reason "..."'


@pytest.fixture
def golden() -> dict[str, Any]:
    kept = json.loads(GOLDEN.read_text())
    if (now := versions()) != kept["versions"]:
        pytest.skip(f"the golden run is of {kept['versions']}, here are {now}")
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("processor", [*list(PROCESSORS)[:2], pytest.param("avx2", marks=pytest.mark.long)])
def test_the_golden_run_is_reproduced(golden: dict[str, Any], processor: str) -> None:
    found = golden_run(processor=processor)
    assert len(found["loss"]) == STEPS
    assert max(distances(found, golden).values()) <= TOLERANCE, f"parted {difference(found, golden)}; {RENEW}"


@pytest.mark.long
def test_processors_are_far_nearer_to_each_other_than_the_tolerance() -> None:
    this = golden_run()
    for processor in PROCESSORS:
        apart = distances(golden_run(processor=processor), this)
        assert max(apart.values()) <= TOLERANCE / 10, difference(this, golden_run(processor=processor))


def test_augmentation_draws_and_pads_as_it_always_did(golden: dict[str, Any]) -> None:
    for found, kept in zip(augmented(), golden["augmented"], strict=True):
        assert found[:3] == pytest.approx(kept[:3], rel=0, abs=GREY_LEVELS), RENEW
        assert found[3] == kept[3], RENEW


def test_the_golden_run_is_of_the_pinned_versions() -> None:
    """Else it would be skipped wherever it is to run."""
    pins = (GOLDEN.parents[2] / "constraints.txt").read_text().split()
    for name, version in json.loads(GOLDEN.read_text())["versions"].items():
        public = version.partition("+")[0]  # constraints say nothing of a build, such as +cpu
        assert f"{name}=={public}" in pins, f"the golden run is of {name} {version}; {RENEW}"


# A millionth of each, but for the seed.
@pytest.mark.parametrize(
    "change",
    [
        pytest.param("model.head.highway_scale=0.5000005", marks=pytest.mark.slow),
        *(
            pytest.param(change, marks=pytest.mark.long)
            for change in (
                "seed=1",
                "model.head.momentum=0.9000009",
                "optim.power=0.9000009",
                "optim.optimizer.lr=2.000002e-3",
                "optim.optimizer.weight_decay=0.01000001",
                "task.auxiliary_weight=0.4000004",
            )
        ),
    ],
)
def test_the_smallest_change_is_seen(golden: dict[str, Any], change: str) -> None:
    assert max(distances(golden_run(change), golden).values()) >= 10 * TOLERANCE


@pytest.mark.parametrize("reason", ["", "because"])
def test_a_renewal_demands_a_reason(reason: str) -> None:
    before = GOLDEN.read_bytes()
    command = [sys.executable, golden_run_file, "--reason", reason]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "why the numbers may change" in done.stderr
    assert GOLDEN.read_bytes() == before
    for entry in json.loads(before)["history"]:
        assert len(entry["reason"]) >= 20
