"""The whole path: train, evaluate, predict, as functions and as a user calls them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.camvid_files import MakeCamVid
from _helpers.entries import start_anew
from _helpers.tiny import call, tiny
from PIL import Image

from hemnet.config.build import restore
from hemnet.config.compose import load
from hemnet.config.explain import ConfigError
from hemnet.data import CAMVID, DataError
from hemnet.errors import HemnetError
from hemnet.runs import checkpoints
from hemnet.runs.run import Run
from hemnet.train import train
from hemnet.using.evaluation import evaluate
from hemnet.using.prediction import predict


def load_checkpoint(run_dir: Path, which: str) -> dict:
    return torch.load(run_dir / "checkpoints" / f"{which}.ckpt", weights_only=True)


def trained(make_camvid: MakeCamVid, tmp_path: Path, *overrides: str) -> Path:
    train(load(tiny(make_camvid(), tmp_path / "run", *overrides)))
    return tmp_path / "run"


@pytest.mark.parametrize("head", ["hem", "em", "emanet", "fcn"])
def test_round_trip(head: str, make_camvid: MakeCamVid, tmp_path: Path) -> None:
    run_dir = trained(
        make_camvid, tmp_path, f"model/head={head}", "model/auxiliary=fcn", "model.auxiliary.channels=8"
    )
    result = json.loads((run_dir / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["steps"] == 4
    files = (
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    )
    for name in (*files, "figures/predictions.png", "figures/learning_curves.png"):
        assert (run_dir / name).stat().st_size > 0, name

    scores = evaluate(run_dir, "last", [])
    logged = [row["val/miou"] for row in Run.open(run_dir).metrics() if "val/miou" in row]
    assert scores["val/miou"] == pytest.approx(result["metrics"]["val/miou"], abs=1e-12)
    assert scores["val/miou"] == pytest.approx(logged[-1], abs=1e-7)  # Lightning logs in float32
    written = json.loads((run_dir / "evaluation" / "last" / "result.json").read_text())
    assert written["metrics"]["val/miou"] == pytest.approx(scores["val/miou"])

    output = predict(run_dir, tmp_path / "camvid" / "val", "last", None)
    mask = Image.open(output / "val_0_mask.png")
    assert (mask.mode, mask.size) == ("P", (64, 48))
    overlay = np.asarray(Image.open(output / "val_0_overlay.png"))
    image = np.asarray(Image.open(tmp_path / "camvid" / "val" / "val_0.png"))
    colours = CAMVID.colorize(np.asarray(mask)).astype(float)
    np.testing.assert_allclose(overlay, 0.55 * colours + 0.45 * image, atol=0.51)
    assert len(list(output.iterdir())) == 2 * 3 + 2  # the legend and the contact sheet


def test_the_last_checkpoint_is_of_the_last_step_whenever_validation_was(
    make_camvid: MakeCamVid, tmp_path: Path
) -> None:
    run_dir = trained(make_camvid, tmp_path, "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2")
    result = json.loads((run_dir / "result.json").read_text())
    steps = {which: load_checkpoint(run_dir, which)["global_step"] for which in ("last", "best")}
    assert steps == {"last": 6, "best": 6}  # the validation after the last step counts too
    assert result["steps"] == 6
    assert evaluate(run_dir, "last", [])["val/miou"] == pytest.approx(
        result["metrics"]["val/miou"], abs=1e-12
    )


def test_predictions_are_what_evaluation_scores(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    run_dir = trained(make_camvid, tmp_path)
    output = predict(run_dir, tmp_path / "camvid" / "val", "last", tmp_path / "out")
    right = counted = 0
    for path in sorted((tmp_path / "camvid" / "valannot").iterdir()):
        truth, guess = np.asarray(Image.open(path)), np.asarray(Image.open(output / f"{path.stem}_mask.png"))
        right += ((truth == guess) & (truth != 11)).sum()
        counted += (truth != 11).sum()
    assert evaluate(run_dir, "last", [])["val/pixel_accuracy"] == pytest.approx(right / counted, abs=1e-7)


def test_checkpoints_hold_plain_containers(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    run_dir = trained(make_camvid, tmp_path)
    for which in ("last", "best"):
        checkpoint = load_checkpoint(run_dir, which)
        assert checkpoint["hemnet"]["spec"]["classes"] == list(CAMVID.classes)
    network, spec = restore(Run.open(run_dir))
    assert spec == CAMVID
    assert not network.training


def test_an_older_checkpoint_is_named_as_such(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    run_dir = trained(make_camvid, tmp_path)
    path = run_dir / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["hemnet"]["format"] = 0
    checkpoints.write(content, path)
    with pytest.raises(HemnetError, match="checkpoint format 0, this version of hemnet reads 2"):
        restore(Run.open(run_dir))


def test_the_same_seed_gives_the_same_run(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    root = make_camvid(train=6)
    rows = []
    for name, workers in (("a", 0), ("b", 2)):
        train(load(tiny(root, tmp_path / name, f"data.num_workers={workers}", "trainer.log_every_n_steps=1")))
        rows.append([row["train/loss"] for row in Run.open(tmp_path / name).metrics() if "train/loss" in row])
    assert len(rows[0]) == 6
    assert rows[0] == rows[1]


def failing(arguments: list[str], run_dir: Path) -> dict:
    with pytest.raises(HemnetError):
        train(load(arguments))
    assert (run_dir / "config.yaml").exists()
    assert (run_dir / "environment.json").exists()
    return json.loads((run_dir / "result.json").read_text())


def test_a_run_that_fails_leaves_a_whole_directory_and_says_why(
    make_camvid: MakeCamVid, tmp_path: Path
) -> None:
    (tmp_path / "nowhere" / "train").mkdir(parents=True)
    result = failing(tiny(tmp_path / "nowhere", tmp_path / "run"), tmp_path / "run")
    assert result["status"] == "failed"
    assert "nowhere" in result["error"]
    assert "data.root" in result["error"]


def test_bad_files_are_named(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    label = make_camvid(name="label")
    mask = np.full((48, 64), 3, np.uint8)
    mask[0, 0] = 77
    Image.fromarray(mask).save(label / "trainannot" / "train_1.png")
    error = failing(tiny(label, tmp_path / "run1"), tmp_path / "run1")["error"]
    assert "trainannot/train_1.png" in error
    assert "77" in error

    corrupt = make_camvid(name="corrupt")
    (corrupt / "val" / "val_0.png").write_bytes(b"no image")
    assert "val/val_0.png" in failing(tiny(corrupt, tmp_path / "run2"), tmp_path / "run2")["error"]


def test_a_bad_file_met_by_a_worker_is_named_too(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    root = make_camvid(train=2)
    (root / "train" / "train_0.png").write_bytes(b"no image")
    error = failing(tiny(root, tmp_path / "run", "data.num_workers=1"), tmp_path / "run")["error"]
    assert "train/train_0.png" in error


def test_evaluate_refuses_what_it_cannot_score(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    with pytest.raises(HemnetError, match="no run at"):
        evaluate(tmp_path, "last", [])
    run_dir = trained(make_camvid, tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean data\.root"):
        evaluate(run_dir, "last", ["data.rot=/x"])
    with pytest.raises(ConfigError, match="is no assignment"):
        evaluate(run_dir, "last", ["data.root"])
    with pytest.raises(ConfigError, match=r"data\.root"):
        evaluate(run_dir, "last", ["data.root=[1"])
    with pytest.raises(DataError, match="/x"):
        evaluate(run_dir, "last", ["data.root=/x"])
    (run_dir / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(HemnetError, match="no checkpoint"):
        evaluate(run_dir, "last", [])


def test_predict_reports_unreadable_images_and_goes_on(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    run_dir = trained(make_camvid, tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    with pytest.raises(DataError, match="no images in"):
        predict(run_dir, photos, "last", None)
    (photos / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 1 image in"):
        predict(run_dir, photos, "last", None)
    Image.new("L", (30, 20), 128).save(photos / "grey.png")
    with pytest.raises(DataError, match=r"1 of 2 images in .* were not segmented: broken\.jpg"):
        predict(run_dir, photos, "last", tmp_path / "out")
    output = tmp_path / "out"
    assert {p.name for p in output.iterdir()} == {
        "grey_mask.png", "grey_overlay.png", "legend.png", "contact_sheet.png",
    }  # fmt: skip
    Image.new("L", (30, 20)).save(photos / "grey.jpg")
    with pytest.raises(DataError, match="has the same stem, so both would be the sample grey"):
        predict(run_dir, photos, "last", None)
    with pytest.raises(DataError, match="no image or folder"):
        predict(run_dir, tmp_path / "nothing", "last", None)


@pytest.mark.slow
def test_the_command_line(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    overrides = [o for o in tiny(make_camvid(), tmp_path) if not o.startswith("run_dir=")]
    done = call(
        "hemnet.train", "experiment=camvid_hem_cpu", *overrides, "logger=wandb", cwd=tmp_path, way=start_anew
    )
    assert done.returncode == 0, done.stderr
    (run_dir,) = (tmp_path / "runs" / "camvid_hem_cpu").iterdir()
    assert "mean IoU" in done.stdout
    assert "bicyclist" in done.stdout
    assert "val/miou" in (run_dir / "run.log").read_text()
    assert len(list((run_dir / "wandb").glob("offline-run-*"))) == 1

    scored = call("hemnet.evaluate", str(run_dir), "--checkpoint", "best", cwd=tmp_path, way=start_anew)
    assert scored.returncode == 0, scored.stderr
    assert "mean IoU" in scored.stdout
    assert (run_dir / "evaluation" / "best" / "result.json").exists()

    image = tmp_path / "camvid" / "val" / "val_0.png"
    shown = call("hemnet.predict", str(run_dir), str(image), cwd=tmp_path, way=start_anew)
    assert shown.returncode == 0, shown.stderr
    assert (run_dir / "predictions" / "legend.png").exists()
    for each in (done, scored, shown):
        assert "GPU available" not in each.stdout + each.stderr  # nor Lightning's other notes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hemnet.train", "model.head.iteratons=3"], "did you mean model.head.iterations"),
        (["hemnet.train", "experiment=camvid_hem_cpu", "logger=csv", "data.root=/nowhere"], "/nowhere"),
        (["hemnet.evaluate", "runs/none"], "runs/none is no folder: name run directories"),
        (["hemnet.predict", "runs/none", "x.png"], "runs/none: give a run directory"),
        (["hemnet.predict", "runs/\udcff", "x.png"], "no run at "),
    ],
)
def test_a_user_s_mistake_ends_in_one_message(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
