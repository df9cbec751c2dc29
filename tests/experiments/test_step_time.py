"""experiments/step_time.py: its table and its rounds."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import step_time
import torch

from hemnet.config.compose import load as compose


def test_rounds_and_ratios(tmp_path: Path, monkeypatch, capsys) -> None:
    took = iter(np.arange(1.0, 1000.0))
    monkeypatch.setattr(step_time.time, "process_time", lambda: float(next(took)) ** 2)
    monkeypatch.setattr(step_time, "step_of", lambda recipe: lambda: None)
    step_time.main(["one", "other", "--seconds", "0.001", "--to", str(tmp_path)])
    found = json.loads((tmp_path / "step_time.json").read_text())
    assert found["threads"] == torch.get_num_threads()
    one, other = (np.array(found["seconds"][name]) for name in ("one", "other"))
    with (tmp_path / "step_time.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["recipe"] for row in rows] == ["one", "other"]
    low, median, high = np.percentile(other / one, [25, 50, 75])
    assert rows[1]["over the first"] == f"{median:.3f}"
    assert rows[1]["quartiles"] == f"{low:.3f} to {high:.3f}"
    assert rows[0]["over the first"] == "1.000"
    assert rows[1]["median s"] == f"{np.median(other):.3f}"
    assert rows[1]["rounds"] == str(len(one))
    assert "| other |" in capsys.readouterr().out


def test_a_step_trains(monkeypatch) -> None:
    small = ["model/backbone=resnet18", "model.backbone.width=4", "model.head.channels=8",
             "data.batch_size=2", "model.head.num_components=4",
             "data.train_transform.crop_size=[32,64]"]  # fmt: skip
    monkeypatch.setattr(step_time, "load", lambda overrides: compose([*overrides, *small]))
    made = []
    build = step_time.build_task

    def keep(*given):
        made.append(build(*given))
        return made[-1]

    monkeypatch.setattr(step_time, "build_task", keep)
    step = step_time.step_of("camvid_lite_hem")
    before = {name: value.clone() for name, value in made[0].network.state_dict().items()}
    step()
    after = made[0].network.state_dict()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert not same & {"head.classifier.weight", "head.context.em.means", "backbone.stem.0.weight"}
    assert made[0].network.training
    with pytest.raises(SystemExit, match="2"):
        step_time.main(["camvid_lite_hem"])
