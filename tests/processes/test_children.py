"""Child processes: whose signals end them, and when."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _helpers.process_tree import alive
from _helpers.waiting import CEILING, until

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "sigwaitinfo"), reason="the system does not tell who has sent a signal"
)
# A parent with a child process that sleeps, or computes for ever.
PARENT = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from hemnet.processes.children import held, obey_parent_alone
STOP = [signal.SIGTERM, signal.SIGINT]
def work(folder):
    while not (folder / "signalled").exists():  # signals come before the helper has said what to do with them
        time.sleep(0.01)
    obey_parent_alone(STOP)
    (folder / "ready").touch()
    while True:
        time.sleep(3600) if sys.argv[2] == "sleeps" else sum(range(1000))
signal.signal(signal.SIGTERM, lambda *_: sys.exit("the parent's own handler"))
helper = multiprocessing.get_context("fork").Process(target=work, args=(Path(sys.argv[1]),), daemon=True)
with held(STOP):
    helper.start()
print(helper.pid, flush=True)
sys.stdin.readline()
helper.terminate()
helper.join()
sys.exit(helper.exitcode)
"""


@pytest.mark.parametrize("deed", ["sleeps", "computes"])
def test_a_child_ends_at_its_parents_signal_and_at_no_other(deed: str, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), deed], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        helper = int(parent.stdout.readline())
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(helper, number)
        (tmp_path / "signalled").touch()
        until((tmp_path / "ready").exists, "the helper's first step", parent)
        for number in (signal.SIGTERM, signal.SIGINT) * 2:
            os.kill(helper, number)
            time.sleep(0.05)
        assert alive(helper)
        parent.communicate(b"now\n", timeout=CEILING)
        assert parent.returncode == 0
        assert not alive(helper)
    finally:
        parent.kill()
