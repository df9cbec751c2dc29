"""Help, and errors of the command line, import nothing that takes seconds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torch._dynamo", "pytorch_lightning", "scipy", "matplotlib", "wandb", "albumentations")
SCRIPT = """
import runpy, sys
name, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(f"hemnet.{name}", run_name="__main__", alter_sys=True)
except SystemExit as end:
    print("imported:", [name for name in %r if name in sys.modules], "status:", end.code or 0)
"""


@pytest.mark.parametrize(
    "words",
    [
        *([name, "--help"] for name in ("train", "evaluate", "predict", "export", "report", "search", "cost",
                                        "bench", "data", "init", "explore")),
        ["data", "get", "nosuch"], ["train", "trainer.max_epoch=1"], ["train", "experiment=nosuch"],
        ["train", "--multirun", "experiment=nosuch"], ["evaluate", "nowhere"], ["predict", "nowhere", "x"],
        ["explore", "nowhere"],
        *(["bench", name, "--help"] for name in ("em", "data", "ddp")), ["report", "wandb", "--help"],
        *(["data", name, "--help"] for name in ("get", "check", "browse")),
        ["bench", "ddp", "--processes", "1"],
        ["bench", "em", "--json", "nowhere/x.json"], ["report", "nowhere"],
        ["train", "trainer.max_epochs=0"], ["train", "seed=one"], ["train", "logger=null"],
        ["search", "nosuch"], ["cost", "experiment=nosuch"],
        ["init", "nowhere"], ["data", "check", "data=nosuch"], ["data", "check", "data=camvid"],
        ["data", "check", "data=folder", "data.root=nowhere"], ["train", "experiment=voc_hem"],
        ["train", "experiment=camvid_hem", "data.root=nowhere"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_nothing_slow_is_imported(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT % (HEAVY,), *words], cwd=tmp_path, capture_output=True,
        encoding="utf-8", check=False,
    )  # fmt: skip
    status = 0 if words[-1] == "--help" else 2
    assert done.stdout.splitlines()[-1] == f"imported: [] status: {status}", done.stderr
    if words[-1] == "--help":
        assert re.search(rf"hemnet[. ]{words[0]}", done.stdout)
        assert not re.search(r"`|python -m", done.stdout)  # for a terminal, by the command's own name
