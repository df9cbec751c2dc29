"""Fifty steps of training give the losses that they always gave, to the bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from golden_run import GOLDEN, difference, golden_run, versions

RENEW = 'if that is meant: python tests/golden_run.py --reason "..."'


@pytest.mark.slow
def test_the_golden_run_is_reproduced() -> None:
    golden = json.loads(GOLDEN.read_text())
    if (now := versions()) != golden["versions"]:
        pytest.skip(f"the golden run is of {golden['versions']}, here are {now}")
    found = golden_run()
    assert len(found["loss"]) == 50
    kept = {key: golden[key] for key in found}
    assert found == kept, f"parted {difference(found, golden)}; {RENEW}"


def test_the_golden_run_is_of_the_pinned_versions() -> None:
    """Else it would be skipped wherever it is to run."""
    pins = (GOLDEN.parents[2] / "constraints.txt").read_text().split()
    for name, version in json.loads(GOLDEN.read_text())["versions"].items():
        public = version.partition("+")[0]  # constraints say nothing of a build, such as +cpu
        assert f"{name}=={public}" in pins, f"the golden run is of {name} {version}; {RENEW}"


@pytest.mark.long
@pytest.mark.parametrize("change", ["model.head.highway_scale=0.5000001", "seed=1", "optim.power=0.9000001"])
def test_the_smallest_change_is_seen(change: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden_run(change)["weights"] != golden["weights"]


@pytest.mark.parametrize("reason", ["", "because"])
def test_a_renewal_demands_a_reason(reason: str) -> None:
    before = GOLDEN.read_bytes()
    command = [sys.executable, str(Path(__file__).with_name("golden_run.py")), "--reason", reason]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "why the numbers may change" in done.stderr
    assert GOLDEN.read_bytes() == before
    for entry in json.loads(before)["history"]:
        assert len(entry["reason"]) >= 20
