"""What the targets of the Makefile hand on to the commands: each value as it was given, whatever is in it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ODD = 'it\'s a "b" (1) & ß;*'


def without_make() -> dict[str, str]:
    """The environment without what `make test` has put there: its variables, and how deep it is."""
    exported = re.search(r"^export (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    names = {*exported[1].split(), "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    return {name: value for name, value in os.environ.items() if name not in names}


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell, the project being set up."""
    return subprocess.run(
        ["make", "--silent", "--old-file=setup", *words],
        cwd=ROOT, env=without_make(), capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


def handed_on(folder: Path, *words: str) -> list[str]:
    """Return the arguments that ``make WORDS`` gives to Python."""
    (stub := folder / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n", "utf-8")
    stub.chmod(0o755)
    done = make(f"PY={stub}", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["train", f"EXP={ODD}"], ["hemnet.train", f"experiment={ODD}"]),
        (["train", f"resume={ODD}"], ["hemnet.train", f"resume={ODD}"]),
        (
            ["train", f"EXP={ODD}", f"resume={ODD}", "ARGS=seed=1 run_dir='a b'"],
            ["hemnet.train", f"experiment={ODD}", f"resume={ODD}", "seed=1", "run_dir=a b"],
        ),
        (["train"], ["hemnet.train", "experiment=synthetic_hem"]),
        (
            ["sweep", "SWEEP=smoke", "ARGS=seed=1,2"],
            ["hemnet.train", "--multirun", "sweep=smoke", "seed=1,2"],
        ),
        (["sweep", "SWEEP=table2_eval"], ["hemnet.evaluate", "--sweep", "table2_eval"]),
        (["search", f"SEARCH={ODD}"], ["hemnet.search", ODD]),
        (["evaluate", f"RUN={ODD}", "CHECKPOINT=a b"], ["hemnet.evaluate", ODD, "--checkpoint", "a b"]),
        (
            ["predict", f"RUN={ODD}", f"INPUT={ODD}", f"CHECKPOINT={ODD}"],
            ["hemnet.predict", ODD, ODD, "--checkpoint", ODD],
        ),
        (
            ["explore", f"RUN={ODD}", "ARGS='a b' --images 3"],
            ["hemnet.explore", ODD, "--checkpoint", "last", "a b", "--images", "3"],
        ),
        (
            ["export", f"RUN={ODD}", f"FORMAT={ODD}"],
            ["hemnet.export", ODD, "--format", ODD, "--checkpoint", "last"],
        ),
        (["bench", f"BENCH={ODD}"], ["hemnet.bench", ODD]),
        (["data", f"DATASET={ODD}", f"DEST={ODD}"], ["hemnet.data", "get", ODD, "--root", ODD]),
        (["report", "ARGS=runs/'a b' --no-images"], ["hemnet.report", "runs/a b", "--no-images"]),
    ],
    ids=lambda value: " ".join(value).replace(ODD, "ODD"),
)  # fmt: skip
def test_values_reach_the_command_as_they_were_given(
    words: list[str], arguments: list[str], tmp_path: Path
) -> None:
    assert handed_on(tmp_path, *words) == ["-m", *arguments]


def test_a_sweep_that_is_not_there_is_named() -> None:
    done = make("PY=false", "sweep", "SWEEP=no such")
    assert done.returncode == 2
    assert "no sweep no such; there are: " in done.stdout
    assert "smoke" in done.stdout
