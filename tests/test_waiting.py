"""The tests' own deadlines: a hang is told by processor time, so that waiting for a busy machine is none."""

import time

import pytest
from _helpers.waiting import within


def compute_for_ever() -> None:
    while True:
        pass


def test_what_computes_for_too_long_fails() -> None:
    with pytest.raises(AssertionError, match="processor time"), within(0.2):
        compute_for_ever()


def test_what_waits_does_not() -> None:
    with within(0.2):
        time.sleep(0.6)
