"""A long training run that writes down, after each validation, what its processes hold.

python -m _helpers.soak_run FILE key=value ...
"""

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from _helpers.process_tree import descendants

from hemnet import train as command
from hemnet.config import build
from hemnet.config.build import build_trainer
from hemnet.config.compose import load

KIB = 1024
KINDS = ("Pss_Anon", "Pss_Shmem")


class Holdings(pl.Callback):
    """Samples memory, files, shared memory, threads and processes of this one and those below; tensors."""

    def __init__(self) -> None:
        self.samples: list[dict[str, float]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.samples.append({"step": trainer.global_step, "seconds": time.monotonic()} | holdings())


def holdings() -> dict[str, float]:
    tree = [os.getpid(), *descendants(os.getpid())]
    found: dict[str, float] = dict.fromkeys(("bytes", "files", "threads"), 0)
    alive = 0
    for pid in tree:
        try:
            place = Path(f"/proc/{pid}")
            rollup = (place / "smaps_rollup").read_text()
            found["files"] += len(list((place / "fd").iterdir()))
            found["threads"] += len(list((place / "task").iterdir()))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # one that ended meanwhile
        # Proportional: what several processes share is counted once. Not what is mapped from files, of which
        # the share depends on who else on this machine has loaded the same libraries.
        found["bytes"] += sum(KIB * int(rollup.split(f"{kind}:")[1].split()[0]) for kind in KINDS)
        alive += 1
    return found | {"processes": alive, "shared": len(list(Path("/dev/shm").iterdir())), "tensors": tensors()}


def tensors() -> int:
    """Return the bytes of all tensors that Python holds in this process, each storage once."""
    gc.collect()
    storages = [x.untyped_storage() for x in gc.get_objects() if isinstance(x, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def main(file: str, *overrides: str) -> None:
    sampler = Holdings()

    def with_sampler(*arguments: Any) -> pl.Trainer:
        trainer = build_trainer(*arguments)
        trainer.callbacks.append(sampler)  # type: ignore[attr-defined]
        return trainer

    build.build_trainer = with_sampler  # type: ignore[attr-defined]
    command.train(load(list(overrides)))
    Path(file).write_text(json.dumps(sampler.samples))


if __name__ == "__main__":
    main(*sys.argv[1:])
