"""experiments/measure.py on a network as it was made: its tables against the same computed apart."""

import json
import math
import shutil
from pathlib import Path

import likelihood
import measure
import numpy as np
import pytest
from _helpers.untrained import untrained
from em_inputs import at_layers

from hemnet.errors import HemnetError
from hemnet.runs import checkpoints
from hemnet.runs.run import Run
from hemnet.storage.files import read_table


@pytest.fixture
def run(tmp_path: Path, make_camvid) -> Run:
    """T = 2 at h = 0.5; images of 40 rows are padded to 64, which the fit leaves out."""
    root = make_camvid(size=(40, 64))
    options = ("model.head.iterations=2", "model.backbone.output_stride=32", f"data.root={root}")
    run, _ = untrained(tmp_path / "run", *options)
    (run.path / "result.json").write_text(json.dumps({"status": "finished", "metrics": {}}))
    return Run.open(run.path)


def test_the_tables_of_a_run(run: Run, capsys) -> None:
    measure.main([str(run.path.parent)])
    courses = read_table(run.path / "measures" / "likelihood.csv")
    assert [*courses[0]] == ["image", "00", "01", "02"]  # the first layer has the empty name
    assert len({row["image"] for row in courses}) == 3
    [(course, _)] = likelihood.of_run(str(run.path), None, 3).values()
    found = [[float(row[f"{t:02d}"]) for t in range(3)] for row in courses]
    np.testing.assert_allclose(found, course.equal, rtol=1e-11)

    # What reaches the features, over all images, by the layer's own backward pass.
    layers = [given[""] for _, given in at_layers(run, None)]
    assert layers[0].weights_BN.min() < 1  # of the padding
    energy = 0.0
    for given in layers:
        x_BNC = given.x_BNC.clone().requires_grad_()
        side = int(math.sqrt(x_BNC.shape[1]))
        shape = (given.layer.channels, side, x_BNC.shape[1] // side)
        features_BChw = x_BNC.mT.unflatten(2, shape[1:])
        given.layer(features_BChw, None, given.weights_BN.unflatten(1, shape[1:])).backward(
            given.dy_BNC.mT.unflatten(2, shape[1:])
        )
        energy += x_BNC.grad.square().sum().item()
    norms = read_table(run.path / "measures" / "e_step.csv")
    assert [row["t"] for row in norms] == ["0", "1", "2", "all"]
    assert float(norms[-1]["features_whole"]) == pytest.approx(math.sqrt(energy), rel=1e-5)
    held = [float(row["means_n_step"]) for row in norms[:3]]
    assert [value / held[2] for value in held] == pytest.approx([0.25, 0.5, 1.0], rel=1e-5)
    assert json.loads((run.path / "measures" / "about.json").read_text())["images"] == 3
    assert capsys.readouterr().out.strip().endswith("run: measured")


def test_a_run_is_measured_once_for_each_checkpoint_and_number_of_images(run: Run) -> None:
    last = run.path / "checkpoints" / "last.ckpt"
    assert measure.measure(run, 1)
    assert measure.measure(run, 1)  # no hash of the checkpoint is recorded
    content = checkpoints.read(last)
    checkpoints.write(content, last)
    assert measure.measure(run, 1)
    assert not measure.measure(run, 1)
    assert measure.measure(run, None)
    assert measure.measure(run, 2)
    assert not measure.measure(run, None)  # a quick look is apart, and replaces nothing
    places = {"images-1": 1, "images-2": 2, ".": 3}
    for name, count in places.items():
        assert len(read_table(run.path / "measures" / name / "likelihood.csv")) == count
    content["state_dict"]["network.head.classifier.bias"] += 1
    checkpoints.write(content, last)
    assert measure.measure(run, 2)
    assert measure.measure(run, None)


def test_tables_that_were_replaced_in_part_do_not_pass_for_measured(run: Run, monkeypatch) -> None:
    last = run.path / "checkpoints" / "last.ckpt"
    content = checkpoints.read(last)
    checkpoints.write(content, last)
    assert measure.measure(run, 1)
    write = measure.write_table

    def stopped(path: Path, *content: object) -> None:
        if path.name == "e_step.csv":
            raise KeyboardInterrupt
        write(path, *content)

    before = last.read_bytes(), (last.parent / "last.ckpt.sha256").read_bytes()
    content["state_dict"]["network.head.classifier.bias"] += 1
    checkpoints.write(content, last)
    monkeypatch.setattr(measure, "write_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        measure.measure(run, 1)
    monkeypatch.setattr(measure, "write_table", write)
    last.write_bytes(before[0])
    (last.parent / "last.ckpt.sha256").write_bytes(before[1])
    assert measure.measure(run, 1)


def test_a_run_whose_tables_cannot_be_written_stops_no_other(run: Run, capsys) -> None:
    first = run.path.parent / "a first"
    shutil.copytree(run.path, first)
    (first / "measures").write_text("a file")
    with pytest.raises(SystemExit, match="1"):
        measure.main([str(run.path.parent), "--images", "1"])
    said = capsys.readouterr()
    assert said.out.strip().endswith("run: measured")
    assert f"{first}: cannot write" in said.err


def test_a_head_without_em_has_nothing_to_measure(tmp_path: Path, make_camvid, capsys) -> None:
    overrides = ("model/head=fcn", f"data.root={make_camvid()}")
    run, _ = untrained(tmp_path / "run", *overrides, replacing="num_components")
    (run.path / "result.json").write_text(json.dumps({"status": "finished", "metrics": {}}))
    measure.main([str(run.path)])
    assert capsys.readouterr().out == ""
    with pytest.raises(HemnetError, match="has no EM layer"):
        measure.measure(Run.open(run.path), None)


def test_a_run_that_cannot_be_measured_is_named_and_the_others_are_measured(run: Run, capsys) -> None:
    broken = run.path.parent / "broken"
    shutil.copytree(run.path, broken)
    (broken / "checkpoints" / "last.ckpt").write_bytes(b"")
    with pytest.raises(SystemExit, match="1"):
        measure.main([str(run.path.parent), "--images", "1"])
    said = capsys.readouterr()
    assert said.out.strip().endswith("run: measured")
    assert str(broken) in said.err
    with pytest.raises(SystemExit, match="2"):
        measure.main([str(run.path), "--images", "0"])
    assert "--images 0: give 1 or more" in capsys.readouterr().err
    with pytest.raises(HemnetError, match="is no folder"):
        measure.main([str(run.path / "none")])
