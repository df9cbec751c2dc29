"""Every data set through the command line, on a miniature: train, evaluate, predict; and the VOC recipe."""

import json
from pathlib import Path

import numpy as np
import pytest
from _helpers.miniatures import WRITERS, write_voc_scenes
from _helpers.tiny import call
from PIL import Image

# A network of a few thousand weights; two steps.
SMALL = [
    "model/backbone=resnet18", "model.backbone.width=4", "model.head.channels=8", "model.num_components=4",
    "data.train_transform.crop_size=[32,32]", "data.batch_size=2", "data.num_workers=0", "logger=csv",
    "trainer.max_steps=2", "trainer.check_val_every_n_epoch=1", "trainer.precision=32",
]  # fmt: skip


def scores_equal(one: dict[str, float | None], other: dict[str, float | None]) -> None:
    shared = [key for key in one if key.startswith("val/") and key in other]
    assert "val/miou" in shared
    # Equal to the digits that Lightning logs, float32; an absent class is NaN in both.
    for key in shared:
        np.testing.assert_allclose(np.float32(one[key]), np.float32(other[key]), rtol=1e-6)


def read(path: Path) -> dict[str, float | None]:
    metrics = json.loads(path.read_text())["metrics"]
    return {key: np.nan if value is None else value for key, value in metrics.items()}


# Of the sets that differ in their reader alone, which has tests of its own, one is enough for every day.
ALIKE = ("voc", "coco_stuff_10k", "cityscapes", "ade20k")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in ALIKE else ()) for name in WRITERS]
)
def test_every_data_set_trains_evaluates_and_predicts(name: str, tmp_path: Path) -> None:
    root, run = tmp_path / name, tmp_path / "run"
    root.mkdir()
    WRITERS[name](root)
    trained = call("hemnet.train", f"data={name}", f"data.root={root}", f"run_dir={run}",
                   f"hydra.run.dir={run}", *SMALL, cwd=tmp_path)  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert json.loads((run / "result.json").read_text())["steps"] == 2
    scored = call("hemnet.evaluate", str(run), cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    scores_equal(read(run / "result.json"), read(run / "evaluation" / "last" / "result.json"))
    image = next(path for path in sorted(root.rglob("*")) if path.suffix in (".jpg", ".png"))
    shown = call("hemnet.predict", str(run), str(image), cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    with Image.open(image) as picture:
        size = picture.size
    assert any(Image.open(path).size == size for path in (run / "predictions").rglob("*.png"))


@pytest.mark.slow
def test_the_voc_recipe_trains_on_a_few_hundred_images(tmp_path: Path) -> None:
    write_voc_scenes(tmp_path / "voc", train=240, val=30)
    run = tmp_path / "run"
    smaller = [
        "model.backbone.weights=null", "model.backbone.width=8", "model.head.channels=16",
        "model.num_components=8",
        "data.train_transform.crop_size=[65,65]", "data.batch_size=8", "data.num_workers=2",
        "trainer=cpu", "trainer.max_epochs=-1", "trainer.max_steps=40", "trainer.check_val_every_n_epoch=1",
        "trainer.log_every_n_steps=1", "logger=csv",
    ]  # fmt: skip
    trained = call("hemnet.train", "experiment=voc_hem", f"data.root={tmp_path / 'voc'}", f"run_dir={run}",
                   f"hydra.run.dir={run}", *smaller, cwd=tmp_path)  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["steps"]) == ("finished", 40)
    losses = np.genfromtxt(run / "metrics.csv", delimiter=",", names=True)["trainloss"]
    losses = losses[np.isfinite(losses)]
    # Of several steps: what one batch has for a loss is chance, and a processor's rounding may decide it.
    assert losses[-5:].mean() < losses[:5].mean()
    scored = call("hemnet.evaluate", str(run), cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    scores_equal(read(run / "result.json"), read(run / "evaluation" / "last" / "result.json"))
