"""Labels from which nothing can be learnt are said to be so: in the check, in training and in evaluation."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from _helpers import toy
from _helpers.fake_runs import write_run
from _helpers.tiny import PLAIN
from PIL import Image

from hemnet.callbacks.label_check import LabelCheck
from hemnet.config.compose import load
from hemnet.data import DataError, Sample
from hemnet.data.degenerate import LabelCounts, degenerate
from hemnet.datasets import check
from hemnet.report.write import write_report
from hemnet.train import train
from hemnet.using.evaluation import evaluate

OBJECT = "data.train.classes=[background,object]"


def write_set(root: Path, labels: dict[str, list[int]], count: int = 3) -> Path:
    """A set of one's own; each mask of a split has its labels in equal columns."""
    for split, values in labels.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            image = np.random.default_rng(i).integers(0, 256, (32, 36, 3), dtype=np.uint8)
            mask = np.tile(np.repeat(values, 36 // len(values)).astype(np.uint8), (32, 1))
            Image.fromarray(image).save(root / "images" / split / f"{i}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{i}.png")
    return root


CASES = {
    "objects of 255": (
        {"train": [0, 255], "val": [0, 255]}, "[background,object]",
        ["train: every labelled pixel of all 3 images is background", "val: every labelled pixel",
         "names: [background, object], labels: [0, 255]"],
    ),
    "one class alone": ({"train": [0], "val": [0]}, "[all]", ["has 1 class (all)", "two or more"]),
    "absent from val": (
        {"train": [0, 1, 2], "val": [0, 1]}, "[a,b,c]",
        ["val: in all 3 images no pixel of: c (1 of 3 classes)", "though train has c"],
    ),
    "absent from train": (
        {"train": [0, 1], "val": [0, 1, 2]}, "[a,b,c]",
        ["train: in all 3 images no pixel of: c", "what is absent cannot be learnt, though val has c"],
    ),
    "absent from both": ({"train": [0, 1], "val": [0, 1]}, "[a,b,c]", ["train: in all", "val: in all"]),
    "val ignored": ({"train": [0, 1], "val": [255]}, "[a,b]", ["val: every pixel of all 3 images is ig"]),
    "train nearly ignored": (
        {"train": [255] * 35 + [0], "val": [0, 1]}, "[a,b]", ["train: every labelled pixel", "97.2 % of"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_check_has_a_problem_and_the_remedy(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, classes, said = CASES[case]
    root = write_set(tmp_path, labels)
    assert not check(["data=folder", f"data.root={root}", f"data.train.classes={classes}"], 0, None)
    printed = capsys.readouterr().out
    for part in said:
        assert part in printed


def test_sound_labels_are_let_pass() -> None:
    counts = LabelCounts(5, np.bincount([0, 1, 255], minlength=256), whole=True)
    assert not degenerate(toy.SPEC, {"train": counts, "val": counts})
    # A class may be in a part of the split that was not seen, and no image was seen at all.
    part = LabelCounts(5, np.bincount([0, 255], minlength=256))
    assert list(degenerate(toy.SPEC, {"train": counts, "val": part})) == ["val"]
    assert not degenerate(toy.SPEC, {"train": LabelCounts(), "val": counts})
    scribbles = LabelCounts(5, np.bincount([0, 1] + [255] * 198, minlength=256), whole=True)
    assert (
        "99.00 % of the pixels of all 5 images are ignored" in degenerate(toy.SPEC, {"val": scribbles})["val"]
    )


class Rare(toy.Halves):
    """Many images; the class "light" is in the last one alone, or in none that has an index below it."""

    first = 0

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        dark = np.where(sample.mask_HW == 255, 255, np.uint8(index >= self.first)).astype(np.uint8)
        return sample._replace(mask_HW=dark)


def test_training_warns_before_the_first_step_and_at_the_first_validation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, labels = toy.data(train=40, val=5), LabelCheck()
    data.train_dataset.reader = Rare(40)
    data.train_dataset.reader.first = 40  # never
    trainer = toy.trainer(tmp_path, max_epochs=2, callbacks=[labels], num_sanity_val_steps=0,
                          enable_checkpointing=False)  # fmt: skip
    before: list[str] = []
    task = toy.task()
    batches: list[int] = []
    add = labels._train.add
    labels._train.add = lambda images, pixels: (batches.append(images), add(images, pixels))  # type: ignore[method-assign, assign]
    task.on_train_start = lambda: before.extend(labels.warnings)  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, "hemnet"):
        trainer.fit(task, datamodule=data)
    assert before
    assert "train: every labelled pixel of 16 images is dark" in before[0]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("hemnet.callbacks")]
    assert [message.partition(" is dark")[0] for message in said] == [
        "train: every labelled pixel of 16 images", "train: every labelled pixel of all 40 crops"
    ]  # fmt: skip
    assert (
        "no pixel of: light (1 of 2 classes); what is absent cannot be learnt, though val has light"
        in said[1]
    )
    # Of the second epoch, one batch in sixteen was counted.
    assert labels.warnings == [said[1].replace("all 40 crops", f"all {40 + batches[-1]} crops")]
    assert sum(batches) == 40 + batches[-1]


def test_a_class_that_is_rare_but_there_is_not_warned_of(tmp_path: Path) -> None:
    data, labels = toy.data(train=40, val=5), LabelCheck()
    data.train_dataset.reader = Rare(40)
    data.train_dataset.reader.first = 38  # not among those looked at first, but for the last
    trainer = toy.trainer(tmp_path, max_epochs=1, callbacks=[labels], enable_checkpointing=False)
    trainer.fit(toy.task(), datamodule=data)
    assert labels.warnings == []


def test_result_json_evaluation_and_report_have_the_warnings(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", {"train": [0, 255], "val": [0, 255]}, count=2)
    run = tmp_path / "run"
    own = ["data=folder", *PLAIN[1:], f"data.root={root}", OBJECT, f"run_dir={run}", "trainer.max_epochs=1"]
    train(load(own))
    evaluate(run, "last", [])
    for path in (run / "result.json", run / "evaluation" / "last" / "result.json"):
        warnings = json.loads(path.read_text())["warnings"]
        assert any(w.startswith("val: every labelled pixel of all 2 images is background") for w in warnings)
        assert "labels: [0, 255]" in warnings[0]
    page = write_report([run], tmp_path / "report", images=False)
    shown = page.read_text()
    assert 0 < shown.index("every labelled pixel of all 2 images is background") < shown.index("<h2>In words")
    with pytest.raises(DataError, match=r"has 1 class .background., and a network needs two or more"):
        train(load([*own[:-3], "data.train.classes=[background]", f"run_dir={tmp_path / 'other'}"]))


def test_a_report_without_warnings_has_no_chapter_on_them(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    page = write_report([tmp_path / "run"], tmp_path / "report", images=False)
    assert "nothing can be learnt" not in page.read_text()
