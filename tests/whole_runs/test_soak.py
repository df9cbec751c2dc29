"""What a run holds does not grow with its length: memory, files, shared memory, threads, processes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from _helpers.waiting import CEILING

SMALL = [
    "data=synthetic", "data.train.length=48", "data.train.size=64", "data.train.cells=4", "data.val.length=6",
    "data.batch_size=4", "data.num_workers=2", "model/backbone=resnet18", "model.backbone.width=4",
    "model.head.channels=8", "model.num_components=4", "trainer.precision=32", "trainer.log_every_n_steps=1",
    "trainer.max_epochs=-1", "trainer.check_val_every_n_epoch=null", "callbacks.last.every_minutes=0.02",
]  # fmt: skip
TOLERANCE = 0.03


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("steps", "every"),
    [
        pytest.param(240, 12, marks=pytest.mark.slow),
        pytest.param(2000, 50, marks=[pytest.mark.long, pytest.mark.slow]),
    ],
)
def test_what_a_run_holds_does_not_grow(steps: int, every: int, tmp_path: Path) -> None:
    file = tmp_path / "samples.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "_helpers.soak_run", file, *SMALL,
            f"run_dir={tmp_path / 'run'}", f"trainer.max_steps={steps}",
            f"trainer.val_check_interval={every}",
        ],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * CEILING, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    samples = json.loads(file.read_text())
    assert [sample["step"] for sample in samples] == list(range(every, steps + 1, every))
    # The first half is for caches to fill; of the second, the end is compared with the beginning.
    first, second = samples[: len(samples) // 2], samples[len(samples) // 2 :]
    third = len(second) // 3
    grown = median(s["bytes"] for s in second[-third:]) / median(s["bytes"] for s in second[:third])
    assert grown < 1 + TOLERANCE, f"memory grew {grown:.3f} times"
    for what in ("files", "processes", "tensors"):
        assert max(s[what] for s in second) <= max(s[what] for s in first), what
    # Of the whole machine: what comes and goes beside this run must not count, what stays must.
    grown = min(s["shared"] for s in second[-third:]) - min(s["shared"] for s in first)
    assert grown < len(second) / 4, f"{grown} more pieces of shared memory"
    # The threads of W&B's service (Go's) come and go by one or two; a leak would be one for each validation.
    grown = max(s["threads"] for s in second) - max(s["threads"] for s in first)
    assert grown < len(second) / 4, f"{grown} more threads"
    with (tmp_path / "run" / "metrics.csv").open(newline="") as rows:
        assert [int(row["step"]) for row in csv.DictReader(rows) if row["train/loss"]] == list(range(steps))
