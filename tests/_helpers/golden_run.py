"""The golden run: a few steps in float64 whose every number a change of the code must reproduce.

    python tests/_helpers/golden_run.py --reason "why the numbers may change"

runs it and keeps what it gives in tests/golden/loss_curve.json, with the reason.

Processors round differently: the order in which a library takes a sum depends on their instructions. In
float32, fifty steps make 0.03 of that in the loss, and no tolerance tells it from a change of the
mathematics. In float64 there is room for one between the two, `TOLERANCE`. What comes before the network is
exact on all processors: images of 8 bits, cropped, flipped and looked up in a table. Colours and sizes OpenCV
changes by functions that may round to the next grey level, so these are kept apart, in `augmented`.
"""

import argparse
import csv
import datetime
import json
import math
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "golden" / "loss_curve.json"
PACKAGES = ("torch", "numpy", "opencv-python-headless", "albumentations", "pytorch-lightning")
STEPS = 12
# All that the numbers depend on, so that recipes and defaults may change without them.
RECIPE = [
    "name=golden", "seed=0", "logger=csv",
    "trainer=cpu", "trainer.precision=64-true", "trainer.max_epochs=-1", f"trainer.max_steps={STEPS}",
    "trainer.log_every_n_steps=1", "trainer.accumulate_grad_batches=1", "trainer.gradient_clip_val=null",
    "data=synthetic", "data.seed=0", "data.num_workers=0", "data.batch_size=4",
    "data.train.length=4096", "data.train.size=96", "data.train.cells=8", "data.train.num_classes=4",
    "data.train.reliability=0.5", "data.train.contrast=40.0", "data.train.noise=8.0", "data.train.seed=0",
    "data.val.length=4", "data.train_transform.crop_size=64", "data.train_transform.scale=[1.0,1.0]",
    "data.train_transform.flip=true", "data.train_transform.color_jitter=0.0",
    "model/backbone=resnet18", "model.backbone.width=8", "model.backbone.output_stride=8",
    "model.num_components=8", "model/head=hem", "model.head.channels=32", "model.head.iterations=3",
    "model.head.highway_scale=0.5", "model.head.assignment=dot", "model.head.variance=null",
    "model.head.normalize=none", "model.head.gradient=unrolled", "model.head.learn_scale=none",
    "model.head.means=moving_average", "model.head.momentum=0.9", "model.head.dropout=0.0",
    "model/auxiliary=fcn", "model.auxiliary.channels=32", "model.auxiliary.dropout=0.0",
    "task.auxiliary_weight=0.4", "task/loss=cross_entropy",
    "optim=adamw", "optim.optimizer.lr=2.0e-3", "optim.optimizer.betas=[0.9,0.999]",
    "optim.optimizer.weight_decay=0.01", "optim.head_lr_multiple=1.0", "optim.power=0.9",
    "optim.warmup_fraction=0.1", "callbacks.predictions=null", "callbacks.attention=null",
]  # fmt: skip
# Relative, of every number. A sum of the n products of a layer rounds by about sqrt(n)·2^-53, so by 1e-14 at
# most, n being 64·64·4 or less; a loss is a mean of such sums, whose errors cancel. Twelve steps make of a
# relative change about ten times as much. Measured with instructions from SSE to AVX-512, with libraries told
# to be reproducible or not, on one thread and two: the losses are apart by up to 1e-15, the weights by 2e-13.
# (A ReLU or a maximum that falls out otherwise would be more, but takes one of 1e7 activations to be as near
# to zero as that.) On the other side, a millionth of one option changes some number by 2e-10 (weight decay),
# or, mostly, by 1e-7 and more.
TOLERANCE = 1e-11
# A processor of twenty years ago, as far as libraries can be told, and one of ten years ago with two threads.
PROCESSORS = {
    "this": {},
    "old": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "passive",  # else threads that wait for each other take the cores of other tests
    },
}  # fmt: skip
# Of a mean over an image, in grey levels: less than if OpenCV rounded half of the pixels up instead of down.
# Measured without its vector instructions: 1e-3. A random choice drawn otherwise changes it by ten or more.
GREY_LEVELS = 0.5
SHORTEST_REASON = 20


def versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def golden_run(*overrides: str, processor: str = "this") -> dict[str, Any]:
    """Train in a process of its own; return each step's losses, each tensor's norm, and the scores."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, __file__, "--train", *RECIPE, *overrides, f"run_dir={run}"]
        done = subprocess.run(
            command,
            env=os.environ | PROCESSORS[processor],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return _read(run)


def _train(*overrides: str) -> None:
    import torch

    from hemnet import train as command
    from hemnet.config import build
    from hemnet.config.build import build_network
    from hemnet.config.compose import load
    from hemnet.em.initial_means import InitialMeans

    # Before the first weight is drawn: in float32, how it is drawn depends on the instructions.
    torch.set_default_dtype(torch.float64)

    def in_float64(*arguments: Any, **options: Any) -> Any:
        network = build_network(*arguments, **options)
        for module in network.modules():
            # The layer keeps these in float32 whatever it is cast to.
            if isinstance(module, InitialMeans):
                module.means, module.pending = module.means.double(), module.pending.double()
                module.reset_parameters()
        return network

    build.build_network = in_float64  # type: ignore[attr-defined]
    command.train(load(list(overrides)))


def _read(run: Path) -> dict[str, Any]:
    import torch

    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not [name for name, value in state.items() if value.dtype == torch.float32]
    scores = json.loads((run / "result.json").read_text())["metrics"]
    return {
        "loss": [float(row["train/loss"]) for row in rows],
        "loss_auxiliary": [float(row["train/loss_auxiliary"]) for row in rows],
        "norms": {name: value.double().norm().item() for name, value in state.items()},
        "scores": {name: scores[name] for name in ("val/loss", "val/miou")},
    }


def augmented() -> list[list[float]]:
    """Return the mean colour and the padding of some images, scaled, cropped, flipped and tinted."""
    import numpy as np

    from hemnet.data import IGNORE_INDEX, Mosaic, TrainTransform
    from hemnet.data.transforms import denormalize

    reader = Mosaic("train", 8, size=96)
    transform = TrainTransform(96, base_size=128, scale=(0.5, 2.0), flip=True, color_jitter=0.3)
    rng = np.random.default_rng(0)
    items = [transform(reader.read(index), rng) for index in range(8)]
    return [
        [*denormalize(item["image"]).mean((0, 1)).tolist(), (item["mask"] == IGNORE_INDEX).sum().item()]
        for item in items
    ]


def distances(new: dict[str, Any], old: dict[str, Any]) -> dict[str, float]:
    """Return the relative difference of each number of two runs by its name; inf if one lacks it."""
    numbers = [_named(run) for run in (new, old)]
    names = [*numbers[0], *(name for name in numbers[1] if name not in numbers[0])]
    return {name: _distance(*(found.get(name, math.nan) for found in numbers)) for name in names}


def _named(run: dict[str, Any]) -> dict[str, float]:
    steps = {f"{key} of step {i}": x for key in ("loss", "loss_auxiliary") for i, x in enumerate(run[key])}
    return steps | run["scores"] | {f"norm of {name}": norm for name, norm in run["norms"].items()}


def _distance(new: float, old: float) -> float:
    if new == old:
        return 0.0
    distance = abs(new - old) / max(abs(new), abs(old))
    return distance if math.isfinite(distance) else math.inf


def difference(new: dict[str, Any], old: dict[str, Any]) -> str:
    """Say where two runs part."""
    apart = {name: distance for name, distance in distances(new, old).items() if distance > TOLERANCE}
    if not apart:
        return f"in nothing by more than {TOLERANCE:g}"
    worst = max(apart, key=lambda name: apart[name])
    return f"first in {next(iter(apart))}, by up to {apart[worst]:.3g} in {worst}"


def renew(reason: str) -> None:
    """Keep what the code gives now as what it has to give."""
    if len(reason.strip()) < SHORTEST_REASON:
        sys.exit(f"say in at least {SHORTEST_REASON} characters why the numbers may change: --reason '...'")
    old = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {"history": []}
    new = golden_run()
    comparable = new.keys() <= old.keys()
    entry = {
        "date": datetime.date.today().isoformat(),
        "reason": reason.strip(),
        "change": difference(new, old) if comparable else "none to compare with",
    }
    content = {"versions": versions(), **new, "augmented": augmented(), "history": [*old["history"], entry]}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{GOLDEN}: {entry['change']}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        _train(*sys.argv[2:])
        sys.exit()
    parser = argparse.ArgumentParser(description="renew the golden run")
    parser.add_argument("--reason", required=True, help="why the numbers may change")
    renew(parser.parse_args().reason)
