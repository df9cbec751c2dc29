"""The report of an evaluation against a computation from the image files."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.camvid_files import write_camvid
from _helpers.tiny import call, tiny
from omegaconf import OmegaConf
from PIL import Image

from hemnet import evaluate as door
from hemnet.config.build import restore
from hemnet.config.compose import load
from hemnet.config.explain import ConfigError
from hemnet.config.paths import EXPERIMENTS
from hemnet.config.trained import override
from hemnet.data import CAMVID, normalize, read_image
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.runs import checkpoints
from hemnet.runs.evaluations import results_of
from hemnet.runs.run import Run
from hemnet.sweeps.evaluate_runs import read_sweep
from hemnet.sweeps.jobs import Evaluation
from hemnet.train import train
from hemnet.using.evaluation import evaluate
from hemnet.using.prediction import predict

VAL = 5


def blocky(path: Path, rng: np.random.Generator) -> None:
    blocks = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(blocks.repeat(16, axis=0).repeat(16, axis=1)).save(path)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained for two steps, with a random classifier, so that it predicts many classes."""
    folder = tmp_path_factory.mktemp("evaluate")
    root = write_camvid(folder / "camvid", {"train": 4, "val": VAL}, (48, 64))
    rng = np.random.default_rng(0)
    for path in sorted(root.glob("*/*.png")):
        if "annot" not in path.parent.name:
            blocky(path, rng)
    train(load(tiny(root, folder / "run", "trainer.max_epochs=1")))
    network, _ = restore(Run.open(folder / "run"))
    seen = []
    network.head.classifier.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        network(torch.stack([normalize(read_image(p)) for p in sorted((root / "val").iterdir())]))
    path = folder / "run" / "checkpoints" / "last.ckpt"
    checkpoint = checkpoints.read(path)
    state = {k: checkpoint["state_dict"][f"network.head.classifier.{k}"] for k in ("weight", "bias")}
    mean, deviation = (f(seen[0], (0, 2, 3)) for f in (torch.mean, torch.std))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(11, len(mean), generator=generator) / deviation.clamp_min(1e-6)
    state["weight"].copy_(drawn[..., None, None])
    state["bias"].copy_(-drawn @ mean)
    checkpoints.write(checkpoint, path)
    return folder / "run"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate", *map(str, arguments)])
    door._entry()


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def slow_scores(
    pairs: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[dict[int, tuple[float, float, int]], float]:
    """IoU, accuracy and pixels of each class that is present, and the pixel accuracy, from sets of pixels."""
    truth, guess = (np.concatenate([p[i].ravel() for p in pairs]).astype(int) for i in (0, 1))
    guess, truth = guess[truth != 11], truth[truth != 11]
    scores = {}
    for k in range(11):
        both, either = ((truth == k) & (guess == k)).sum(), ((truth == k) | (guess == k)).sum()
        if either:
            pixels = (truth == k).sum()
            scores[k] = (both / either, both / pixels if pixels else math.nan, int(pixels))
    return scores, float((truth == guess).mean())


def slow_counts(truth: np.ndarray, guess: np.ndarray) -> dict[int, tuple[int, int, int]]:
    """Pixels of both, of either and of the truth, of each class that is present, pixel by pixel."""
    found: dict[int, list[int]] = {k: [0, 0, 0] for k in range(11)}
    for true, guessed in zip(truth.ravel().tolist(), guess.ravel().tolist(), strict=True):
        if true == 11:
            continue
        found[true][0] += true == guessed
        found[true][2] += 1
        for k in {true, guessed}:
            found[k][1] += 1
    return {k: tuple(pixels) for k, pixels in found.items() if pixels[1]}


def test_the_report_agrees_with_the_masks_it_wrote(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING")
    how = ["--scales", "0.5", "1", "1.5", "--flip"]
    command(
        monkeypatch, *how, "data.eval_batch_size=1", run_dir, "--voc-submission", tmp_path, "--worst", "2"
    )
    out = run_dir / "evaluation" / "last-scales-0.5-1-1.5-flip"
    assert sorted(p.name for p in out.iterdir()) == [
        "classes.csv", "confusion.png", "counts.csv", "images.csv", "result.json", "worst.png"
    ]  # fmt: skip
    masks = tmp_path / "results" / "VOC2012" / "Segmentation" / "comp5_val_cls"
    truths = {p.stem: np.asarray(Image.open(p)) for p in (run_dir.parent / "camvid" / "valannot").iterdir()}
    pairs = {name: (truth, np.asarray(Image.open(masks / f"{name}.png"))) for name, truth in truths.items()}
    assert len(list(masks.iterdir())) == len(pairs) == VAL

    scores, pixel_accuracy = slow_scores(list(pairs.values()))
    assert len({k for _, guess in pairs.values() for k in np.unique(guess)}) > 3, (
        "a dull prediction shows little"
    )
    result = json.loads((out / "result.json").read_text())
    mean = sum(s[0] for s in scores.values()) / len(scores)
    assert result["metrics"]["val/miou"] == pytest.approx(mean, abs=1e-6)
    assert result["metrics"]["val/pixel_accuracy"] == pytest.approx(pixel_accuracy, abs=1e-6)
    assert result["inference"]["scales"] == [0.5, 1.0, 1.5]
    assert (result["images"], result["iterations_eval"]) == (VAL, None)
    assert "data.eval_batch_size=1" in result["overrides"]
    rows = table(out / "classes.csv")
    assert [row["class"] for row in rows] == list(CAMVID.classes)
    for k, row in enumerate(rows):
        assert float(row["iou"]) == pytest.approx(scores[k][0], abs=1e-6)
        assert float(row["accuracy"]) == pytest.approx(scores[k][1], abs=1e-6)
        assert int(row["pixels"]) == scores[k][2]

    images = table(out / "images.csv")
    assert {row["image"] for row in images} == set(pairs)
    for row in images:
        alone, accuracy = slow_scores([pairs[row["image"]]])
        own = sum(s[0] for s in alone.values()) / len(alone)
        assert float(row["miou"]) == pytest.approx(own, abs=1e-6)
        assert float(row["pixel_accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    assert [float(r["miou"]) for r in images] == sorted(float(r["miou"]) for r in images)
    assert [tuple(row.values()) for row in table(out / "counts.csv")] == [
        (name, CAMVID.classes[k], *map(str, pixels))
        for name in sorted(pairs)
        for k, pixels in slow_counts(*pairs[name]).items()
    ]
    assert f"{100 * mean:.2f}" in capsys.readouterr().out
    assert "scores 21 classes, this network has 11" in caplog.text

    same = predict(run_dir, run_dir.parent / "camvid" / "val", "last", tmp_path / "p",
                           ["inference.scales=[0.5,1,1.5]", "inference.flip=true"])  # fmt: skip
    for name, (_, guess) in pairs.items():
        np.testing.assert_array_equal(np.asarray(Image.open(same / f"{name}_mask.png")), guess)


def test_a_window_of_the_image_s_size_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_dir: Path
) -> None:
    found = []
    for name, how in (
        ("plain", []),
        ("window", ["--window", "48", "64"]),
        ("half", ["--window", "24", "32"]),
    ):
        command(monkeypatch, run_dir, *how, "--output", tmp_path / name)
        found.append(json.loads((tmp_path / name / "result.json").read_text())["metrics"])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_sweep_over_iterations_has_a_row_each(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, run_dir, "--iterations", "0", "3", "8", "--worst", "0")
    out = run_dir / "evaluation" / "last"
    rows = table(out / "iterations.csv")
    assert [row["iterations"] for row in rows] == ["0", "3", "8"]
    plain = evaluate(run_dir, "last", [])  # the network was trained with T = 3
    assert float(rows[1]["val/loss"]) == pytest.approx(plain["val/loss"], abs=1e-6)
    assert len({row["val/loss"] for row in rows}) == 3
    for row in rows:
        result = json.loads((out / f"T{row['iterations']}" / "result.json").read_text())
        assert result["iterations_eval"] == int(row["iterations"])
        assert result["metrics"]["val/loss"] == pytest.approx(float(row["val/loss"]), abs=1e-6)
        assert not (out / f"T{row['iterations']}" / "worst.png").exists()
    assert "iterations" in capsys.readouterr().out


def test_earlier_rows_stay_and_other_images_have_a_folder_of_their_own(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    for how in ({"iterations": [4]}, {"iterations": [2]}, {}):
        evaluate(copy, "last", [], worst=0, **how)
    rows = table(copy / "evaluation/last/iterations.csv")
    assert [row["iterations"] for row in rows] == ["2", "4"]
    evaluate(copy, "last", ["data.val.split=train", "data.eval_batch_size=2"], worst=0)
    assert {path.name for path in (copy / "evaluation").iterdir()} == {"last", "last-split-train"}
    before = json.loads((copy / "evaluation/last/result.json").read_text())
    assert (before["images"], before["iterations_eval"]) == (VAL, None)

    # So do a whole node, and a change of the network; what the run has anyway changes nothing.
    whole = "data.val={_target_: hemnet.data.CamVid, split: train}".replace(": ", ":")
    for how in (
        [whole],
        ["model.head.iterations_eval=1"],
        ["data.val.split=val"],
    ):
        evaluate(copy, "last", how, worst=0)
    assert {path.name for path in (copy / "evaluation").iterdir()} == {
        "last", "last-split-train", "last-iterations_eval-1"
    }  # fmt: skip
    assert json.loads((copy / "evaluation/last/result.json").read_text()) | {
        "seconds": 0,
        "overrides": [],
    } == (before | {"seconds": 0})

    # For another checkpoint none of them is valid.
    checkpoints.write(
        checkpoints.read(copy / "checkpoints/last.ckpt") | {"epoch": 7}, copy / "checkpoints/last.ckpt"
    )
    evaluate(copy, "last", [], iterations=[1], worst=0)
    assert [row["iterations"] for row in table(copy / "evaluation/last/iterations.csv")] == ["1"]


def test_other_images_at_another_root_have_a_folder_of_their_own(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    first = evaluate(copy, "last", [], worst=0)
    root = write_camvid(tmp_path / "other" / "camvid", {"train": 4, "val": VAL}, (48, 64))
    moved = shutil.copytree(run_dir.parent / "camvid", tmp_path / "moved")
    for path in (root / "valannot").iterdir():
        Image.fromarray(np.full((48, 64), 7, np.uint8)).save(path)
    second = evaluate(copy, "last", [f"data.root={root}"], worst=0)
    assert evaluate(copy, "last", [f"data.root={moved}"], worst=0) == pytest.approx(first, nan_ok=True)
    kept, other = sorted((copy / "evaluation").iterdir())
    assert kept.name == "last"
    assert other.name.startswith("last-data-")
    for place, scores in ((kept, first), (other, second)):
        found = json.loads((place / "result.json").read_text())["metrics"]
        assert found["val/loss"] == pytest.approx(scores["val/loss"])
    assert "last; 5 images of the val split of camvid" in capsys.readouterr().out


def test_the_first_evaluation_may_be_of_other_images(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    root = write_camvid(tmp_path / "other" / "camvid", {"train": 4, "val": VAL}, (48, 64))
    for path in (root / "valannot").iterdir():
        Image.fromarray(np.full((48, 64), 7, np.uint8)).save(path)
    own, other = json.loads((copy / "result.json").read_text()), [f"data.root={root}"]
    evaluate(copy, "last", other, iterations=[1, 2], worst=0)
    assert [place.name.startswith("last-data-") for place in (copy / "evaluation").iterdir()] == [True]
    assert results_of(copy) == {}
    [place] = (copy / "evaluation").iterdir()
    assert results_of(copy, place.name).keys() == {1, 2}
    evaluate(copy, "last", other, output=tmp_path / "chosen", worst=0)
    assert (tmp_path / "chosen" / "result.json").is_file()
    scores = evaluate(copy, "last", [], worst=0)
    assert results_of(copy)[None]["metrics"]["val/miou"] == pytest.approx(scores["val/miou"])
    for pixels in (
        None,
        [4, 5],
        "all",
        3,
        {"sky": "many"},
        {"sky": None},
    ):  # of an older version; changed by hand
        (copy / "result.json").write_text(json.dumps(own | {"labelled_pixels": pixels}))
        shutil.rmtree(copy / "evaluation")
        evaluate(copy, "last", other, worst=0)
        assert results_of(copy).keys() == {None}


def test_results_of_something_else_than_their_folder_says_are_left_out(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    evaluate(copy, "last", [], iterations=[1, 2, 3], worst=0)
    (copy / "checkpoints" / "last.ckpt").unlink()  # as in runs whose small files alone are kept
    path = copy / "evaluation/last/T2/result.json"
    before = json.loads(path.read_text())
    for change in (
        {"checkpoint": "best"}, {"settings": ["flip"]}, {"changes": {"data.val.split": "train"}},
        {"changes": 3}, {"checkpoint_sha256": "0" * 64}, {"checkpoint_sha256": ["a"]}, {"data": 3},
    ):  # fmt: skip
        path.write_text(json.dumps(before | change))
        assert results_of(copy).keys() == {1, 3}, change
    path.write_text(json.dumps(before))
    assert results_of(copy).keys() == {1, 2, 3}


def test_an_evaluation_or_submission_of_another_origin_is_not_overwritten(
    run_dir: Path, tmp_path: Path
) -> None:
    place = tmp_path / "out"
    evaluate(run_dir, "last", [], output=place, submission=tmp_path, worst=0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for which, how in (("best", []), ("last", ["inference.flip=true"]), ("last", ["data.val.split=train"])):
        with pytest.raises(HemnetError, match=r"out/result.json was made with .*: choose another --output"):
            evaluate(run_dir, which, how, output=place, worst=0)
    with pytest.raises(HemnetError, match=r"val_\d.png was made with checkpoint last, not best"):
        evaluate(run_dir, "best", [], output=tmp_path / "new", submission=tmp_path, worst=0)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "iterations"),
    [("classes.csv", []), ("worst.png", []), ("iterations.csv", [2]), ("T2/images.csv", [2])],
)
def test_files_of_a_user_are_not_replaced(
    run_dir: Path, tmp_path: Path, name: str, iterations: list[int]
) -> None:
    (own := tmp_path / "out" / name).parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(HemnetError, match=f"{name} exists, and does not say that this network made it"):
        evaluate(run_dir, "last", [], output=tmp_path / "out", iterations=iterations, worst=0)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [own]
    own.unlink()
    (tmp_path / "out" / "result.json").write_text('{"accuracy": 0.9}')
    with pytest.raises(HemnetError, match=r"result\.json exists"):
        evaluate(run_dir, "last", [], output=tmp_path / "out", worst=0)


def test_neither_a_run_s_result_nor_results_beside_are_replaced(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    before = (copy / "result.json").read_bytes()
    for own in (run_dir, copy):
        with pytest.raises(HemnetError, match=r"run/result\.json exists"):
            evaluate(own, "last", [], output=copy, worst=0)
    assert (copy / "result.json").read_bytes() == before
    # Beside the named folder, for other images: of another checkpoint.
    root = shutil.copytree(run_dir.parent / "camvid", tmp_path / "other")
    for path in (root / "valannot").iterdir():
        Image.fromarray(np.full((48, 64), 7, np.uint8)).save(path)
    evaluate(copy, "last", [], output=tmp_path / "X", worst=0)
    evaluate(copy, "last", [f"data.root={root}"], output=tmp_path / "X", worst=0)
    (beside,) = tmp_path.glob("X-data-*")
    shutil.rmtree(tmp_path / "X")
    evaluate(copy, "best", [], output=tmp_path / "X", worst=0)
    kept = {path: path.read_bytes() for path in beside.iterdir()}
    with pytest.raises(HemnetError, match="was made with checkpoint last, not best"):
        evaluate(copy, "best", [f"data.root={root}"], output=tmp_path / "X", worst=0)
    assert kept == {path: path.read_bytes() for path in beside.iterdir()}


def test_a_submission_of_other_t_or_images_is_not_replaced(run_dir: Path, tmp_path: Path) -> None:
    root = shutil.copytree(run_dir.parent / "camvid", tmp_path / "other")
    blocky(root / "val" / "val_0.png", np.random.default_rng(9))
    for _ in range(2):  # the same again
        evaluate(run_dir, "last", [], iterations=[1], output=tmp_path / "a", submission=tmp_path, worst=0)
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.png")}
    for changes, iterations, said in (
        ([], [2], r"iterations \[1\], not \[2\]: choose another --voc-submission"),
        ([f"data.root={root}"], [1], "made with content"),
    ):
        with pytest.raises(HemnetError, match=said):
            evaluate(
                run_dir, "last", changes, iterations=iterations, output=tmp_path / "b", submission=tmp_path
            )
    (mine := next(iter(before)).with_name("mine.png")).write_bytes(b"mine")
    with pytest.raises(HemnetError, match=r"mine\.png exists"):
        evaluate(run_dir, "last", [], iterations=[1], output=tmp_path / "a", submission=tmp_path, worst=0)
    mine.unlink()
    assert before == {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.png")}


def test_scores_that_cannot_be_written_are_printed_and_earlier_files_stay(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    evaluate(run_dir, "last", [], output=out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hemnet.callbacks.evaluation_record.write_json", full)
    with pytest.raises(HemnetError, match=r"cannot write .*out .*No space left.*: choose another --output"):
        evaluate(run_dir, "last", [], output=out, worst=0)
    assert "mean IoU" in capsys.readouterr().out
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr("hemnet.using.submission.write_mask", full)
    with pytest.raises(HemnetError, match="choose another --voc-submission"):
        evaluate(run_dir, "last", [], output=out, submission=tmp_path)


def test_an_evaluation_of_an_older_version_is_read_and_renewed(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    evaluate(copy, "last", [], worst=0)
    path = copy / "evaluation/last/result.json"
    new = json.loads(path.read_text())
    older = {key: new[key] for key in ("checkpoint", "checkpoint_sha256", "overrides", "metrics", "images")}
    path.write_text(json.dumps(older | {"inference": new["inference"], "iterations_eval": None}))
    assert results_of(copy)[None]["metrics"] == new["metrics"]
    evaluate(copy, "last", [], worst=0)
    assert json.loads(path.read_text())["changes"] == {}


def test_an_image_that_needs_too_much_memory_is_named(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Segmenter, image: torch.Tensor, size: tuple[int, int]) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Segmenter, "forward", fail)
    with pytest.raises(HemnetError, match=r"out of memory on val_0 .*--window 512 512"):
        evaluate(run_dir, "last", ["data.eval_batch_size=1"], output=tmp_path / "out", worst=0)


def test_of_many_runs_only_what_is_left_is_evaluated(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    one, unfinished, fcn = runs / "one", runs / "unfinished", runs / "fcn"
    for place in (one, unfinished, fcn):
        shutil.copytree(run_dir, place, ignore=shutil.ignore_patterns("evaluation", "result.json"))
    shutil.copy(run_dir / "result.json", one)
    shutil.copy(run_dir / "result.json", fcn)
    config = Run.open(fcn).config
    config.model.head = {"_target_": "hemnet.nets.FCNHead", "channels": 8, "dropout": 0.1}
    OmegaConf.save(config, fcn / "config.yaml")
    evaluate(one, "last", [], iterations=[2], worst=0)

    given: list[dict[str, list[str]]] = []

    def start(self: Evaluation, environment: object) -> None:
        given.append({self.name: self.overrides})
        self.status = "running"

    def poll(self: Evaluation) -> bool:
        self.status = "finished"
        return True

    monkeypatch.setattr(Evaluation, "start", start)
    monkeypatch.setattr(Evaluation, "poll", poll)
    command(monkeypatch, runs, "--iterations", "1", "2", "4", "--flip")
    command(monkeypatch, runs, "--iterations", "1", "2", "4", "data.eval_batch_size=3")
    command(monkeypatch, runs, "--iterations", "2")
    same = [
        str(one),
        "--iterations",
        "1",
        "2",
        "4",
        "--checkpoint",
        "last",
        "--worst",
        "0",
        "inference.flip=true",
    ]
    rest = [
        str(one),
        "--iterations",
        "1",
        "4",
        "--checkpoint",
        "last",
        "--worst",
        "0",
        "data.eval_batch_size=3",
    ]
    assert given == [{"one": same}, {"one": rest}]
    rows = {row["job"]: (row["status"], row["error"]) for row in table(runs / "evaluation/jobs.csv")}
    assert rows == {
        "one": ("skipped", ""),
        "fcn": ("skipped", "fcn has no EM layer, and so no T"),
        "unfinished": ("skipped", "it has not finished: no result yet"),
    }
    assert "fcn has no EM layer, and so no T" in capsys.readouterr().out


def test_runs_are_evaluated_again_on_other_images_and_for_pictures_that_are_missing(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "runs" / "one", ignore=shutil.ignore_patterns("evaluation"))
    same = shutil.copytree(run_dir.parent / "camvid", tmp_path / "same")
    other = shutil.copytree(run_dir.parent / "camvid", tmp_path / "other")
    for path in (other / "valannot").iterdir():
        Image.fromarray(np.full((48, 64), 7, np.uint8)).save(path)
    done: list[list[str]] = []

    def here(job: Evaluation, environment: dict[str, str]) -> None:
        done.append([*job.overrides][1:])
        command(monkeypatch, *job.overrides)

    monkeypatch.setattr(Evaluation, "start", here)
    monkeypatch.setattr(Evaluation, "poll", lambda job: bool(setattr(job, "status", "finished")) or True)
    monkeypatch.setattr(Evaluation, "interrupt", lambda job: None)
    for words in (
        [],
        [f"data.root={other}"],
        ["--worst", "2"],
        [f"data.root={same}"],
        [f"data.root={other}", "--worst", "1"],
    ):
        for _ in range(2):  # the second time there is nothing to do
            command(monkeypatch, tmp_path / "runs", *words)
        assert len(done) == 1, words
        done.clear()
    kept, beside = sorted((copy / "evaluation").glob("last*"))
    assert kept.name == "last"
    assert json.loads((kept / "result.json").read_text())["content"]
    assert (beside / "worst.png").is_file()
    # Other labels at the same place.
    Image.fromarray(np.full((48, 64), 3, np.uint8)).save(other / "valannot" / "val_0.png")
    command(monkeypatch, tmp_path / "runs", f"data.root={other}")
    assert len(done) == 1


def test_mistakes_with_many_runs_are_named(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(HemnetError, match=r"no run in .*: train first, or name other folders"):
        command(monkeypatch, tmp_path)
    with pytest.raises(HemnetError, match="--output and --voc-submission are for one run"):
        command(monkeypatch, run_dir, run_dir, "--output", tmp_path)
    with pytest.raises(HemnetError, match=r"no file .*evaluations/tabel\.yaml.*: known are .*table2_eval"):
        command(monkeypatch, "--sweep", "tabel")
    with pytest.raises(HemnetError, match="name a run directory, a folder of runs, or a sweep"):
        command(monkeypatch)


def test_every_sweep_of_evaluations_opens_with_what_it_claims() -> None:
    for path in (EXPERIMENTS / "evaluations").glob("*.yaml"):
        text = path.read_text()
        assert all(f"# {word}:" in text for word in ("Question", "Command", "Budget", "Expected"))
        assert f"SWEEP={path.stem}" in text
        assert not (EXPERIMENTS / "sweeps" / path.name).exists(), "make sweep would not know which is meant"
        folders, iterations = read_sweep(path.stem)
        assert folders
        assert iterations == sorted(set(iterations))


def test_an_older_run_and_a_recipe_s_own_inference(run_dir: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    config = Run.open(run_dir).config
    (older / "checkpoints").symlink_to(run_dir / "checkpoints")

    def score(*assignments: str, **inference: object) -> float:
        changed = config.copy()
        if inference:
            changed.inference.update(inference)
        else:
            del changed["inference"]
        (older / "config.yaml").write_text(OmegaConf.to_yaml(changed))
        return evaluate(older, "last", list(assignments), worst=0)["val/loss"]

    assert score() == evaluate(run_dir, "last", [], worst=0)["val/loss"]
    assert score(flip=True) == score("inference.flip=true") != score()


def test_mistakes_are_named(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"inference: stride without a window"):
        evaluate(run_dir, "last", ["inference.stride=[4,4]"])
    with pytest.raises(ConfigError, match=r"did you mean inference\.scales"):
        evaluate(run_dir, "last", ["inference.scale=[1]"])
    with pytest.raises(ConfigError, match=r"inference\.window"):
        evaluate(run_dir, "last", ["inference.window=[4]"])
    for wrong in ([-1], [2, 2], [10**30]):
        with pytest.raises(HemnetError, match="different numbers from 0 to 1000000"):
            evaluate(run_dir, "last", [], iterations=wrong)
    (tmp_path / "taken").write_text("")
    with pytest.raises(HemnetError, match=r"cannot write .*taken.*choose another --output"):
        evaluate(run_dir, "last", [], output=tmp_path / "taken", worst=0)
    with pytest.raises(HemnetError, match="one prediction per image"):
        evaluate(run_dir, "last", [], iterations=[1, 2], submission=tmp_path)
    train(load(tiny(run_dir.parent / "camvid", tmp_path / "fcn", "model/head=fcn", "trainer.max_epochs=1")))
    with pytest.raises(HemnetError, match="no EM layer"):
        evaluate(tmp_path / "fcn", "last", [], iterations=[1])


def test_training_validates_plainly_whatever_the_inference(run_dir: Path, tmp_path: Path) -> None:
    found = []
    for name, how in (("a", []), ("b", ["inference.flip=true", "inference.scales=[0.5]"])):
        train(load(tiny(run_dir.parent / "camvid", tmp_path / name, "trainer.max_epochs=1", *how)))
        found.append(json.loads((tmp_path / name / "result.json").read_text())["metrics"])
    assert found[0] == found[1]


@pytest.mark.slow
def test_two_ranks_with_five_images_report_what_one_does(run_dir: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    shared = ["hemnet.evaluate", str(run_dir), "data.eval_batch_size=1", "--flip", "--worst", "3"]
    for out, how in ((one, ["trainer.devices=1"]), (two, ["trainer.devices=2", "trainer.strategy=ddp"])):
        done = call(*shared, *how, "--output", str(out), "--voc-submission", str(out), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("mean IoU") == 1, "one rank speaks"
    results = [json.loads((out / "result.json").read_text()) for out in (one, two)]
    assert [r["images"] for r in results] == [VAL, VAL]
    # Float32 means of the same losses in another order.
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"], abs=1e-6, nan_ok=True)
    for name in ("classes.csv", "counts.csv", "images.csv", "confusion.png", "worst.png"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert [len(list(out.rglob("comp5_val_cls/*.png"))) for out in (one, two)] == [VAL, VAL]


def test_any_split_and_any_data_set_of_the_run_s_classes_can_be_evaluated(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    camvid = write_camvid(tmp_path / "camvid", {"test": 3}, (48, 64))  # and no other split
    command(monkeypatch, run_dir, "--split", "test", f"data.root={camvid}")
    assert "3 images of the test split of camvid" in " ".join(capsys.readouterr().out.split())
    expected = json.loads((run_dir / "evaluation" / "last-split-test" / "result.json").read_text())
    # The same images as a folder of one's own.
    own = tmp_path / "own"
    for ours, theirs in (("images/test", "test"), ("masks/test", "testannot")):
        (own / ours).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(camvid / theirs, own / ours)
    (own / "classes.yaml").write_text(
        f"names: [{', '.join(CAMVID.classes)}]\nlabels: [{', '.join(map(str, range(11)))}]\nignore: 11\n"
    )
    command(monkeypatch, run_dir, "data=folder", f"data.root={own}", "--split", "test")
    (folder,) = (run_dir / "evaluation").glob("last-data-Folder-*")
    assert folder.name.endswith("_split-test")
    found = json.loads((folder / "result.json").read_text())
    # The loss is a sum of floats, which processors round differently from one call to the next.
    losses = [result["metrics"].pop("val/loss") for result in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert found["metrics"] == expected["metrics"]
    assert found["changes"]["data.val._target_"] == "hemnet.data.Folder"
    config = override(Run.open(run_dir).config, ["data=folder", f"data.root={own}"], "evaluate")
    assert config.data.eval_transform == Run.open(run_dir).config.data.eval_transform
    with pytest.raises(HemnetError, match="choose data with the same classes"):
        evaluate(run_dir, "last", ["data=synthetic"])
    with pytest.raises(ConfigError, match="data=foldr: did you mean folder"):
        evaluate(run_dir, "last", ["data=foldr"])
    with pytest.raises(ConfigError, match=r"data\.val\.split is 'tests'"):
        evaluate(run_dir, "last", ["data.val.split=tests"])
