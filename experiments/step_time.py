"""Times of a training step of CamVid recipes over that of the first one, interleaved: the cost of STUDY.md.

    OMP_NUM_THREADS=1 python experiments/step_time.py RECIPE [RECIPE ...] [--seconds 90] --to FOLDER

A step is the forward pass of a batch of the recipe's crops, loss, backward pass and optimizer step, on noise,
from random weights; reading images is left out. Time is processor time, which other work on the machine moves
less than the clock. FOLDER gets step_time.csv, medians with the median and quartiles of the ratios within the
rounds, and step_time.json, every round with the machine.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from training_step import take_step

from hemnet.bench.timing import Budget, interleave, paired
from hemnet.config.build import build_network, build_task
from hemnet.config.command_line import run_entry
from hemnet.config.compose import load
from hemnet.data import CAMVID, Batch
from hemnet.runs.provenance import device_name, environment
from hemnet.storage.files import write_json, write_table
from hemnet.storage.places import absolute

SHOWN = ("recipe", "median s", "over the first", "quartiles", "rounds")
ROUNDS = 50


def step_of(recipe: str) -> Callable[[], None]:
    """Return a function that takes one training step of a recipe."""
    config = load([f"experiment={recipe}"])
    torch.manual_seed(0)
    task = build_task(config, build_network(config, CAMVID.num_classes, pretrained=False), CAMVID)
    optimizer, _ = task.optimization.build(task.network.train(), 10_000)
    count, size = config.data.batch_size, config.data.train_transform.crop_size
    batch = Batch(
        image=torch.randn(count, 3, *size).contiguous(memory_format=task.memory_format),
        mask=torch.randint(CAMVID.num_classes, (count, *size), dtype=torch.uint8),
        name=[""] * count,
    )
    return lambda: take_step(task, optimizer, batch)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the recipes, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    limit = "in all; five rounds may take up to four times as many"
    parser.add_argument("--seconds", type=float, default=90, help=limit)
    parser.add_argument("--to", type=absolute, required=True, metavar="FOLDER")
    options = parser.parse_args(arguments)
    steps = [step_of(recipe) for recipe in options.recipes]
    budget = Budget(options.seconds, ROUNDS)
    times = interleave(steps, torch.device("cpu"), budget, time.process_time)
    rows = []
    for recipe, own in zip(options.recipes, times, strict=True):
        ratio = paired(own, times[0])
        quartiles = f"{ratio.low:.3f} to {ratio.high:.3f}"
        rows.append([recipe, f"{np.median(own):.3f}", f"{ratio.median:.3f}", quartiles, len(own)])
    print("\n".join(f"| {' | '.join(map(str, row))} |" for row in (SHOWN, *rows)))
    about = {
        "processor": device_name("cpu"),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "git": environment()["git"],
    }
    write_table(options.to / "step_time.csv", SHOWN, rows)
    seconds = dict(zip(options.recipes, times, strict=True))
    write_json(options.to / "step_time.json", about | {"clock": "process_time", "seconds": seconds})


if __name__ == "__main__":
    run_entry(main)
