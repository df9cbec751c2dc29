"""The sections of gpu_check.py that run commands of the project as a user does."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from gpu_measures import Sizes
from PIL import Image

from hemnet.runs.checkpoints import read


def _hemnet(name: str, *arguments: str, **environment: str) -> str:
    """Run a command; return what it printed.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"hemnet.{name}", *arguments], env=os.environ | environment,
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr, sep="\n", flush=True)
    if done.returncode:
        raise RuntimeError(f"hemnet {name} ended with status {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _training(sizes: Sizes, folder: Path, *changes: str) -> list[str]:
    shutil.rmtree(folder, ignore_errors=True)
    return [
        "experiment=synthetic_hem", f"trainer={sizes.trainer}", "logger=csv", f"run_dir={folder}",
        f"trainer.max_steps={sizes.run_steps}", "trainer.max_epochs=-1", "trainer.val_check_interval=null",
        "trainer.check_val_every_n_epoch=1", *sizes.run_changes, *changes,
    ]  # fmt: skip


def _digest(run: Path) -> str:
    """A digest of all weights of a run's last checkpoint, bit by bit."""
    state = read(run / "checkpoints" / "last.ckpt")["state_dict"]
    return hashlib.sha256(b"".join(state[name].cpu().numpy().tobytes() for name in sorted(state))).hexdigest()


def determinism(sizes: Sizes, folder: Path) -> list[str]:
    """Two runs of one seed, whose kernels are compiled anew each time, have the same bits."""
    digests = []
    for number in (1, 2):
        run, cache = folder / f"deterministic_{number}", folder / f"cache_{number}"
        shutil.rmtree(cache, ignore_errors=True)
        given = _training(sizes, run, "trainer.deterministic=true")
        _hemnet("train", *given, TRITON_CACHE_DIR=str(cache), TORCHINDUCTOR_CACHE_DIR=str(cache))
        digests.append(_digest(run))
    if len(set(digests)) > 1:
        raise RuntimeError("the two runs differ in their weights")
    return [f"{sizes.run_steps} steps of synthetic_hem, weights equal bit by bit: sha256 {digests[0][:16]}."]


def resume(sizes: Sizes, folder: Path) -> list[str]:
    """A run that is stopped and resumed has the weights of one that was not, up to the order of sums."""
    whole, stopped = folder / "whole", folder / "stopped"
    _hemnet("train", *_training(sizes, whole, "trainer.deterministic=true"))
    command = [sys.executable, "-m", "hemnet.train", *_training(sizes, stopped, "trainer.deterministic=true")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    metrics = stopped / "metrics.csv"
    while process.poll() is None and not (
        metrics.exists() and len(metrics.read_text("utf-8").splitlines()) > 1
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    status = process.wait()
    log = f"asked to stop after the first lines of metrics.csv, it ended with status {status}"
    if status == 0:
        log = "it had finished before it was asked to stop, so that nothing was resumed"
    _hemnet("train", f"resume={stopped}")
    if _digest(whole) != _digest(stopped):
        raise RuntimeError(f"{log}; resumed, its weights differ from those of a run without a stop")
    return [f"A run of {sizes.run_steps} steps: {log}; in the end its weights equal the other's bit by bit."]


def use(sizes: Sizes, folder: Path) -> list[str]:
    """The commands that take a trained network, on the run of the section before, or one of their own."""
    run = folder / "whole"
    if not (run / "checkpoints" / "last.ckpt").exists():
        _hemnet("train", *_training(sizes, run))
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for number, size in enumerate([(96, 128), (70, 101), (240, 320)]):
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(photos / f"{number}.png")
    lines = []
    for name, arguments in {
        "evaluate": (str(run), *sizes.evaluation),
        "predict": (str(run), str(photos)),
        "export": (str(run), "--format", "torch"),
        "cost": (str(run), "--size", "64", "64", "--repeats", "5"),
    }.items():
        started = time.monotonic()
        said = _hemnet(name, *arguments)
        last = re.sub(r"\s+", " ", said.strip().splitlines()[-1]) if said.strip() else ""
        lines.append(
            f"- `hemnet {name}`: {time.monotonic() - started:.0f} s; {last.replace(str(folder), '…')}"
        )
    return lines
