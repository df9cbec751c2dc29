"""The golden run: fifty steps whose every loss a change of the code must reproduce, to the bit.

    python tests/golden_run.py --reason "why the numbers may change"

runs it and keeps what it gives in tests/golden/loss_curve.json, with the reason. The numbers are those of the
pinned versions; processors are made to take the same instructions, as far as libraries can be told.
"""

import argparse
import csv
import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden" / "loss_curve.json"
PACKAGES = ("torch", "numpy", "opencv-python-headless", "albumentations", "pytorch-lightning")
# The instructions that every 64-bit x86 processor of the last ten years has, and one thread.
PORTABLE = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2",
}  # fmt: skip
RECIPE = [
    "experiment=synthetic_hem", "seed=0", "logger=csv", "trainer.precision=32", "trainer.max_epochs=-1",
    "trainer.max_steps=50", "trainer.log_every_n_steps=1", "data.num_workers=0", "data.train.size=96",
    "data.val.length=4", "data.batch_size=4", "model.backbone.width=16", "model.num_components=16",
    "data.train_transform.color_jitter=0.3", "optim.warmup_fraction=0.1", "callbacks.predictions=null",
    "callbacks.attention=null",
]  # fmt: skip
SHORTEST_REASON = 20


def versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def golden_run(*overrides: str) -> dict[str, Any]:
    """Train in a process of its own; return the loss of each step, a digest of the weights and the score."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hemnet.train", *RECIPE, *overrides, f"run_dir={folder}/run"]
        done = subprocess.run(
            command,
            env=os.environ | PORTABLE,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return _read(Path(folder) / "run")


def _read(run: Path) -> dict[str, Any]:
    import torch

    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].contiguous().numpy().tobytes())
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    return {
        "loss": [row["train/loss"] for row in rows],
        "weights": digest.hexdigest(),
        "val/miou": repr(metrics["val/miou"]),
    }


def difference(new: dict[str, Any], old: dict[str, Any]) -> str:
    """Say where two runs part."""
    changes = [abs(float(a) - float(b)) for a, b in zip(new["loss"], old["loss"], strict=False)]
    first = next((i for i, change in enumerate(changes) if change), None)
    where = (
        "in no loss" if first is None else f"from step {first} on, by up to {max(changes):.3g} in the loss"
    )
    return f"{where}; val/miou {old['val/miou']} -> {new['val/miou']}"


def renew(reason: str) -> None:
    """Keep what the code gives now as what it has to give."""
    if len(reason.strip()) < SHORTEST_REASON:
        sys.exit(f"say in at least {SHORTEST_REASON} characters why the numbers may change: --reason '...'")
    old = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {"history": []}
    new = golden_run()
    entry = {
        "date": datetime.date.today().isoformat(),
        "reason": reason.strip(),
        "change": difference(new, old) if "loss" in old else "the first",
    }
    content = {"versions": versions(), **new, "history": [*old["history"], entry]}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{GOLDEN}: {entry['change']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="renew the golden run")
    parser.add_argument("--reason", required=True, help="why the numbers may change")
    renew(parser.parse_args().reason)
