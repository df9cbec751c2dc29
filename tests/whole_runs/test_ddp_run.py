"""A run on two CPU processes: trained once, evaluated exactly, recorded by the first rank."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from _helpers.camvid_files import MakeCamVid
from _helpers.waiting import CEILING

from hemnet.using.evaluation import evaluate


@pytest.mark.slow
def test_two_ranks_leave_one_run(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    root = make_camvid(train=8, val=3)  # three samples do not divide by two ranks
    run_dir = tmp_path / "run"
    overrides = [
        "experiment=camvid_hem_cpu", f"data.root={root}", f"run_dir={run_dir}", f"hydra.run.dir={run_dir}",
        "model.backbone.width=4", "model.head.channels=8", "model.num_components=4", "logger=wandb",
        "data.train_transform.base_size=null", "data.train_transform.crop_size=32", "data.batch_size=2",
        "data.eval_transform.size=null", "data.num_workers=0", "trainer.max_epochs=2", "trainer.precision=32",
        "trainer.check_val_every_n_epoch=1", "trainer.devices=2", "trainer.strategy=ddp",
        "data.eval_batch_size=1",  # so that one rank has a batch more than the other
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, "-m", "hemnet.train", *overrides],
        cwd=tmp_path, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        timeout=CEILING, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((run_dir / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["steps"] == 4  # 8 samples, 2 a rank and step, 2 epochs
    assert len(list((run_dir / "wandb").glob("offline-run-*"))) == 1
    torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    # One process counts every sample once; so did the two.
    scores = evaluate(run_dir, "last", ["trainer.devices=1", "trainer.strategy=auto"])
    assert scores["val/miou"] == pytest.approx(result["metrics"]["val/miou"], abs=1e-7)
    assert scores["val/loss"] == pytest.approx(result["metrics"]["val/loss"], rel=1e-6)
