"""What experiments/study.py adds to the plan: controls, intervals over images, and tables of measure.py."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import study
from _helpers.fake_runs import write_evaluation
from _helpers.study_pages import at, cells, page, write
from scipy import stats
from study_explored import E_STEP
from study_finished import Finished
from study_images import over_images, read_counts

from hemnet.errors import HemnetError
from hemnet.report.collect import read
from hemnet.runs import checkpoints
from hemnet.runs.evaluations import COUNTS
from hemnet.runs.run import Run
from hemnet.storage.files import write_json, write_table

OLD = {"iterations": 8, "assignment": "gaussian", "variance": 1.0}
GAINS = (0.02, 0.03, 0.025)
COURSE = f"layer,image,{','.join(f'{t:02d}' for t in range(9))}\n"


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("keys", "control"),
    [
        ({"trainer__gradient_clip_val": 10.0}, "clipped at 10"),
        ({"optim__optimizer__betas": [0.9, 0.95]}, "betas 0.9 and 0.95"),
        ({"correct_momentum": True}, "average corrected"),
        ({"normalize": "l2"}, "unit means"),
        ({"correct_momentum": True, "trainer__gradient_clip_val": 0.5}, "clipped at 0.5, average corrected"),
        ({"optim__optimizer__betas": [0.9, 0.999], "trainer__gradient_clip_val": None}, ""),
        ({}, ""),
    ],
)
def test_a_run_says_how_it_was_trained_differently(tmp_path: Path, keys: dict, control: str) -> None:
    path = write(tmp_path, 0, **keys)
    run = Finished(Run.open(path), read(path))
    assert run.setting.control == control
    assert str(run.setting) == "h = 0.5, T = 3, Eq. 8" + (f", {control}" if control else "")


def test_controls_are_compared_apart_from_the_plan(tmp_path: Path) -> None:
    clip = {"trainer__gradient_clip_val": 10.0}
    for seed, gain in enumerate(GAINS):
        for keys, miou in ((OLD | clip, 0.4), (OLD | clip | {"highway_scale": 0.0}, 0.4 - gain), (OLD, 0.3)):
            write(tmp_path, seed, miou + 0.01 * seed, **keys)
    text = page(tmp_path)
    old, new = "T = 8, σ² = 1", "T = 8, σ² = 1, clipped at 10"
    plan, _, after = text.partition("\n# Exploratory")
    assert "clipped" not in plan.partition("## Primary")[2]
    assert "# `synthetic_hem`: 3 finished runs of the plan" in plan
    assert plan.count("_clip_val-10.0") == 6  # of the controls
    assert "outside the plan" not in plan
    assert cells(plan, f"h = 0.5, {old} against h = 0, {old}")[-1] == "not yet: 0 of 3 pairs"
    found = section(after, "Clipped, σ² = 1")
    p = stats.ttest_1samp(GAINS, 0).pvalue
    row = cells(found, f"h = 0.5, {new} against h = 0, {new}")
    assert (*row[:3], row[4]) == ("3", "3", "+0.0250", f"{p:.2g}")
    assert cells(found, f"h = 0.5, {new} against h = 0.5, {old}")[2] == "+0.1000"
    assert f"h = 0, {new} against h = 0, {old}" not in found  # which has not run
    assert "supported" not in after
    assert "not yet: fewer than 3 pairs of runs" in section(after, "Moving average corrected for h")


def test_a_control_shows_no_number_before_it_has_three_pairs(tmp_path: Path) -> None:
    for seed, gain in enumerate(GAINS[:2]):
        for keys, miou in (({}, 0.4 + gain), ({"highway_scale": 0.0}, 0.4)):
            write(tmp_path, seed, miou, correct_momentum=True, iterations=8, **keys)
            write(tmp_path, seed, miou, iterations=8, **keys)
    title = "Moving average corrected for h"
    assert "+0.0" not in section(page(tmp_path).partition("\n# Exploratory")[2], title)


def counted(run: Path, T: int | None, right: list[list[int]]) -> None:
    """An evaluation of three images of two classes, 10 pixels each, of which so many are right."""
    hits = np.sum(right, 0)
    place = write_evaluation(run, T, float((hits / (20 * len(right) - hits)).mean()))
    rows = [
        [f"{n}", "ab"[k], hit, 20 - hit, 10] for n, hits in enumerate(right) for k, hit in enumerate(hits)
    ]
    write_table(place / "counts.csv", COUNTS, rows)


def test_pixels_of_another_score_than_the_evaluations_are_damage(tmp_path: Path) -> None:
    """As of a file that has lost rows."""
    for seed in range(3):
        for h in (0.5, 0.0):
            counted(write(tmp_path, seed, iterations=8, highway_scale=h), None, [[6, 7], [5, 8], [4, 3]])
    path = next(tmp_path.rglob("counts.csv"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        HemnetError, match=r"counts\.csv: its pixels have a mean IoU of 0\.\d+, and its result"
    ):
        page(tmp_path)


def test_intervals_over_images_wait_for_every_pair(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths: dict[float, dict[int, Path]] = {0.5: {}, 0.0: {}}
    differences = []
    for seed in range(3):
        scores = []
        for h, T in ((0.5, None), (0.0, 8)):
            paths[h][seed] = run = write(tmp_path, seed, iterations=8, highway_scale=h)
            right = rng.integers(2, 9, (3, 2))
            if (seed, h) != (2, 0.0):
                counted(run, T, right.tolist())
            scores.append((right.sum(0) / (60 - right.sum(0))).mean())
            last = right
        differences.append(scores[0] - scores[1])
    half, none = (f"h = {h}, T = 8, Eq. 8" for h in ("0.5", "0"))
    assert f"{half} against {none}" not in section(page(tmp_path), "Intervals over images")
    counted(paths[0.0][2], 8, last.tolist())
    row = cells(section(page(tmp_path), "Intervals over images"), f"{half} against {none}")
    assert row[:3] == ["3", "3", f"{np.mean(differences):+.4f}"]
    sides = [
        {seed: read_counts(path / "evaluation/last" / sub / "counts.csv") for seed, path in paths[h].items()}
        for h, sub in ((0.5, ""), (0.0, "T8"))
    ]
    expected = over_images(*sides)
    for cell, (low, high) in zip(row[3:], expected[3:], strict=True):
        assert cell == f"{low:+.4f} to {high:+.4f}"
    assert len(set(row[3:])) == 3


def test_what_the_e_steps_carry_and_where_the_likelihood_falls(tmp_path: Path) -> None:
    header = [
        "layer",
        "t",
        *(f"{a}_{b}" for a in ("features", "means") for b in ("whole", "n_step", "e_step")),
    ]
    for seed, scale in enumerate((1, 3)):  # norms of different size, the same shares
        run = write(tmp_path, seed, iterations=8)
        (run / "measures").mkdir()
        norms = [["", t, scale * (t + 1), scale, scale * (t + 1) / (seed + 2), 4, 2, t] for t in range(8)]
        norms += [["", 8, scale, 0, scale, 4, 4, 0], ["", "all", 10 * scale, scale, 5 * scale, "", "", ""]]
        norms += [["other/", 0, 9, 9, 9, 9, 9, 9]]
        write_table(run / "measures" / "e_step.csv", header, norms)
        times = [f"{t:02d}" for t in range(9)]
        rising, falling = [-9 + t for t in range(9)], [-1.0, *([-3.0] * 7), -2.5 if seed else -0.5]
        courses = [["", "a", *rising], ["", "b", *falling], ["other/", "a", *rising[::-1]]]
        write_table(run / "measures" / "likelihood.csv", ["layer", "image", *times], courses)
        write_json(run / "measures" / "about.json", {"checkpoint_sha256": "0" * 64})
    text = page(tmp_path)
    found = section(text, "What the E-steps carry of the gradient (Eq. 15 and 18)")
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in found.splitlines() if "Eq. 8" in line]
    assert [row[1] for row in rows] == [*map(str, range(8)), "readout", "all"]
    # Shares (t+1)/36 and 1/8; a part of 1/2 and 1/3: mean 0.4167, half width 12.706 · 0.16667 / 2, from 0.
    assert rows[2][2:] == ["2", "0.0833", "0.1250", "0.4167", "0.0000 to 1.4755", "0.3333", "0.5000"]
    assert rows[8][3:] == ["", "", "1.0000", "1.0000 to 1.0000", "0.0000", ""]
    assert [rows[9][i] for i in (3, 4, 5, 7)] == ["", "", "0.5000", "0.1000"]
    fallen = section(text, "Images in which an iteration lowers the log-likelihood")
    expected = ["2", "2 of 32", "2 of 4", "2", "2", "1 of 4"]
    assert cells(fallen, "h = 0.5, T = 8, Eq. 8") == expected


def test_what_was_measured_of_another_checkpoint_or_of_some_images_is_left_out(tmp_path: Path) -> None:
    run = write(tmp_path, 0, iterations=8)
    last = run / "checkpoints" / "last.ckpt"
    last.parent.mkdir(exist_ok=True)
    checkpoints.write({"step": 1}, last)
    write_table(run / "measures" / "e_step.csv", ["layer", "t", "a"], [["", 0, 5], ["other/", 0, 6]])

    def found() -> list[float]:
        return [*Finished(Run.open(run), read(run)).measured("e_step", ["a"]).get("a", ())]

    for digest, expected in (("0" * 64, []), (checkpoints.fingerprint(last), [5])):
        write_json(run / "measures" / "about.json", {"checkpoint_sha256": digest})
        assert found() == expected
    write_json(run / "measures" / "about.json", {"checkpoint_sha256": digest, "images_asked": 5})
    assert found() == []
    (run / "measures" / "about.json").unlink()  # measure.py was stopped
    assert found() == []
    shutil.rmtree(last.parent)  # as in runs that were kept: the evaluations say of which checkpoint they are
    for digest, other, expected in (("a", "b", []), ("a", "a", [5]), (None, "b", [5])):
        shutil.rmtree(run / "evaluation", ignore_errors=True)
        write_evaluation(run, 6, 0.5, checkpoint=digest)
        write_json(run / "measures" / "about.json", {"checkpoint_sha256": other})
        assert found() == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("e_step.csv", "layer,t,features_whole\n,0,1\n"), ("e_step.csv", "\xff"),
        ("likelihood.csv", "layer,image,00,01\n,a,1,2\n"),
        *(("likelihood.csv", f"{COURSE},a{value * 9}\n") for value in (",x", ",inf", ",")),
        ("likelihood.csv", f"{COURSE},a{',1' * 8},\n,b{',1' * 9}\n"),
        ("e_step.csv", f"layer,{','.join(E_STEP)}\n{',1,1,1,1,1'}\n"),
        ("refit.json", '{"epochs": 5, "val/miou": {"6": "high"}}'),
        ("refit.json", '{"epochs": 5, "val/miou": {"x": 0.5}}'),
        ("refit.json", '{"epochs": 5, "val/miou": {"6": 7}}'),
    ],
)  # fmt: skip
def test_a_damaged_measure_is_named(tmp_path: Path, name: str, content: str) -> None:
    folder = write(tmp_path, 0, iterations=8) / "measures"
    folder.mkdir()
    write_json(folder / "about.json", {"checkpoint_sha256": "0" * 64})
    (folder / name).write_text(content, "latin-1")
    with pytest.raises(HemnetError, match=f"{folder / name}: .*: restore the file"):
        page(tmp_path)


def test_evaluations_of_different_images_are_named(tmp_path: Path) -> None:
    for seed in range(8):
        for h in (0.5, 0.0):
            place = write_evaluation(write(tmp_path, seed, highway_scale=h), None, 0.5)
            rows = [[name, "car", 1, 2, 2] for name in ("a", "b" if (seed, h) != (3, 0.0) else "c")]
            write_table(place / "counts.csv", COUNTS, rows)
    with pytest.raises(HemnetError, match=r"highway_scale-0.0_s3_ were evaluated on different images"):
        page(tmp_path)


def test_sharpening_outside_the_primary_runs_is_counted_by_setting(tmp_path: Path) -> None:
    falling = [3.0, 2.9, 2.8, 2.7, 2.6, 2.5, 2.4, 2.3, 2.2]
    for seed, entropy in enumerate((falling, [*falling[:8], 2.4], [3.0, 3.1, *falling[2:]])):
        write(tmp_path, seed, iterations=8, rows=[at("em/entropy", entropy, 9)])
    write(tmp_path, 0, rows=[at("em/entropy", falling[:4], 9)])  # T = 3
    for seed, rows in enumerate((falling[:4], [3.0, 3.1, 2.0, 1.0])):
        how = {"assignment": "gaussian", "variance": 4.0}
        write(tmp_path, seed, rows=[at("em/entropy", rows, 9)], **how)
    found = section(page(tmp_path), "Sharpening outside the primary runs")
    assert cells(found, "h = 0.5, T = 3, Eq. 7") == ["2", "1", "1"]
    assert cells(found, "h = 0.5, T = 8, Eq. 8") == ["3", "1", "2"]  # with every t, over the E-steps
    assert "T = 3, Eq. 8" not in found
    assert "h = 0.9" not in found  # which has not run


def test_tables_that_cannot_be_written_are_said(tmp_path: Path, capsys) -> None:
    write(tmp_path / "runs", 0, iterations=8)
    (tmp_path / "file").write_text("")
    told = [str(tmp_path / "runs"), "--experiment", "synthetic_hem", "--tables", str(tmp_path / "file")]
    with pytest.raises(HemnetError, match=r"cannot write to .*file .*: name another folder for --tables"):
        study.main(told)
    assert "## Scores" in capsys.readouterr().out


def test_each_table_is_a_file_too(tmp_path: Path, capsys) -> None:
    for seed, gain in enumerate(GAINS):
        write(tmp_path / "runs", seed, 0.4 + gain, iterations=8)
        write(tmp_path / "runs", seed, 0.4, iterations=8, highway_scale=0.0)
    told = [str(tmp_path / "runs"), "--experiment", "synthetic_hem", "--tables", str(tmp_path / "t")]
    study.main(told)
    text = capsys.readouterr().out
    written = {path.stem for path in (tmp_path / "t").iterdir()}
    assert {"primary", "depth", "eq_7", "t_eval_h_0_5", "images", "e_step", "gradient_shares"} <= written
    for path in (tmp_path / "t").iterdir():
        with path.open(newline="") as file:
            for row in csv.reader(file):
                assert f"| {' | '.join(row)} |" in text
    with (tmp_path / "t" / "depth.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert first["mean difference"] == "+0.0250"
    assert first["verdict"].startswith("no difference shown")  # after Holm over six
