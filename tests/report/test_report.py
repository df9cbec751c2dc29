"""The report as a user makes it: from run directories to a page, tables and figures."""

import errno
import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from xml.etree import ElementTree

import numpy as np
import pytest
from _helpers.fake_runs import plausible_rows, write_run, write_study
from _helpers.report_page import page_of, table_of
from PIL import Image
from scipy import stats

from hemnet.errors import HemnetError
from hemnet.report.collect import collect
from hemnet.report.groups import sections
from hemnet.report.variants import variants
from hemnet.report.write import write_report
from hemnet.runs.run_settings import settings
from hemnet.storage.files import hold

EM, HEM = ("model/head=em",), ("model/head=hem",)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder / "runs", depths=(3, 8), scales=(0.5, 0.9), seeds=3)
    hostile = "RuntimeError: <script>alert(1)</script> & 50 % of $x_1$"
    write_run(folder / "runs/failed", HEM, seed=7, status="failed", error=hostile)
    write_run(folder / "runs/preempted", HEM, seed=8, status="preempted", error="KeyboardInterrupt: ")
    write_run(folder / "runs/running", HEM, seed=9, status=None)
    write_run(folder / "runs/sweeps/depth/hem_T3_h0.5_s0/evaluation/inner", HEM, seed=5)
    (folder / "runs/broken").mkdir()
    (folder / "runs/broken/config.yaml").write_text("a: [")
    write_report([folder / "runs"], folder / "report")
    return folder / "runs", folder / "report"


def scores(runs: Path, name: str) -> np.ndarray:
    """Return mIoU of seeds 0, 1, 2 straight from the JSON text."""
    texts = [(runs / f"sweeps/depth/{name}_s{seed}/result.json").read_text() for seed in range(3)]
    return np.array([float(re.search(r'"val/miou": ([\d.e-]+)', text)[1]) for text in texts])


def test_scores_and_tests_over_depth(study: tuple[Path, Path]) -> None:
    runs, out = study
    rows = table_of(out, "synthetic_hem_miou_vs_iterations")
    assert [row["T"] for row in rows] == ["3", "8"]
    for row in rows:
        hem, em = scores(runs, f"hem_T{row['T']}_h0.5"), scores(runs, f"em_T{row['T']}_h0.0")
        assert float(row["em"]) == pytest.approx(em.mean())
        low, high = stats.t.interval(0.95, 2, em.mean(), stats.sem(em))
        assert (float(row["em low"]), float(row["em high"])) == pytest.approx((low, high))
        expected = stats.ttest_rel(hem, em)
        assert float(row["difference"]) == pytest.approx((hem - em).mean())
        assert float(row["p"]) == pytest.approx(expected.pvalue)
    every = table_of(out, "synthetic_hem_miou_vs_scale")  # which has these two pairs of settings too
    family = sorted(float(row["p"]) for row in every if row["p"])
    raised = [min(1, (len(family) - i) * p) for i, p in enumerate(family)]  # Holm by hand
    by_hand = {p: max(raised[: i + 1]) for i, p in enumerate(family)}
    assert [float(row["p after Holm"]) for row in rows] == pytest.approx(
        [by_hand[float(row["p"])] for row in rows]
    )
    same = {(row["T"], row["p"], row["p after Holm"], row["verdict"]) for row in every if row["h"] == "0.5"}
    assert same == {(row["T"], row["p"], row["p after Holm"], row["verdict"]) for row in rows}
    for row in rows:
        assert row["verdict"] == ("supported" if float(row["p after Holm"]) < 0.05 else "inside the noise")


def test_scores_over_the_highway_scale(study: tuple[Path, Path]) -> None:
    runs, out = study
    rows = table_of(out, "synthetic_hem_miou_vs_scale")
    assert [(row["T"], row["h"]) for row in rows] == [(t, h) for t in "38" for h in ("0", "0.5", "0.9")]
    for row in rows:
        if row["h"] == "0":
            assert row["verdict"] == ""
            continue
        first, second = scores(runs, f"hem_T{row['T']}_h{row['h']}"), scores(runs, f"em_T{row['T']}_h0.0")
        assert float(row["p"]) == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_gradient_of_the_backbone(study: tuple[Path, Path]) -> None:
    _, out = study
    rows = {(row["T"], row["head"]): row for row in table_of(out, "synthetic_hem_gradient_backbone")}
    name = "gradient/backbone/all"
    norms = [[r[name] for r in plausible_rows(8, 0.0, seed) if name in r] for seed in range(3)]
    for column, of in (("mean of medians", np.median), ("mean of largest", np.max)):
        expected = np.exp(np.mean([np.log(of(found)) for found in norms]))
        assert float(rows["8", "em"][column]) == pytest.approx(expected)
    assert rows["8", "em"]["n"] == "3"


@pytest.mark.parametrize(("iteration", "t"), [("first", 0), ("half-way", 4)])
def test_gradient_that_is_left(iteration: str, t: int, study: tuple[Path, Path]) -> None:
    _, out = study
    table = table_of(out, "synthetic_hem_gradient_means")
    rows = {(row["T"], row["h"], row["phase"], row["iteration"]): row for row in table}
    assert len(table) == 3 * 2 * 2 * 2  # phases, T, h, iterations
    sides: dict[float, np.ndarray] = {}
    for h in (0.0, 0.5):
        name = f"gradient/means/{t:02d}"
        logged = [[row[name] for row in plausible_rows(8, h, seed) if name in row] for seed in range(3)]
        assert {*map(len, logged)} == {60}  # of which the last tenth is six
        sides[h] = np.array([np.log(values[-6:]).mean() for values in logged])
    row = rows["8", "0.5", "end", iteration]
    change = sides[0.5] - sides[0.0]
    low, high = stats.t.interval(0.95, 2, change.mean(), stats.sem(change))
    assert float(row["this h"]) == pytest.approx(np.exp(np.mean(sides[0.5])))
    found = [float(row[name]) for name in ("ratio", "ratio low", "ratio high")]
    assert found == pytest.approx(np.exp([change.mean(), low, high]))
    assert float(row["p"]) == pytest.approx(stats.ttest_1samp(change, 0).pvalue)
    assert row["verdict"] == "supported"
    text = " ".join(page_of(out).text.split())
    place = "at the first iteration" if t == 0 else "half-way"
    assert f"Gradient left {place} at the end of training, hem (h=0.5) at T=8: {found[0]:.3g} times" in text


def test_costs_pair_runs_of_one_seed(study: tuple[Path, Path]) -> None:
    (row,) = [row for row in table_of(study[1], "synthetic_hem_cost_ratio") if row["T"] == "8"]

    def seconds(h: float, seed: int) -> float:
        return plausible_rows(8, h, seed)[-1]["cost/seconds_per_step"]

    ratios = [seconds(0.5, seed) / seconds(0.0, seed) for seed in range(3)]
    assert float(row["s per step, ratio"]) == pytest.approx(np.exp(np.mean(np.log(ratios))))
    assert float(row["parameters, ratio"]) == 1


def test_the_page_is_whole_and_asks_the_network_for_nothing(study: tuple[Path, Path]) -> None:
    _, out = study
    page = page_of(out)
    assert not {"link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("script") == 1, "the one that sorts tables, which has no text from runs"
    sources = [value for _, name, value in page.attributes if name in ("src", "srcset", "data", "poster")]
    assert all(source.startswith("data:image/") for source in sources)
    targets = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert all(target.startswith("#") or (out / target).exists() for target in targets)
    assert not re.search(r"url\((?!#)", (out / "index.html").read_text())
    assert ("meta", "name", "viewport") in page.attributes
    assert all(attribute != ("img", "alt", "") for attribute in page.attributes)
    for figure in (out / "figures").glob("*.svg"):
        assert "<text" in figure.read_text()
        assert "mathdefault" not in figure.read_text(), "the ticks of a logarithmic axis are plain numbers"
        assert figure.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_what_did_not_finish_is_listed_and_its_text_is_harmless(study: tuple[Path, Path]) -> None:
    _, out = study
    text = page_of(out).text
    assert "<script>alert(1)</script>" in text  # as text, after the parser's unescaping
    rows = {Path(row["run"]).name: row for row in table_of(out, "problems")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "failed": "failed", "preempted": "preempted", "running": "unfinished", "broken": "unreadable",
    }  # fmt: skip
    tex = (out / "tables/problems.tex").read_text()
    assert r"\textless{}script\textgreater{}" in tex
    assert r"50 \% of \$x\_1\$" in tex
    (job,) = [row for row in table_of(out, "jobs") if row["sweep"] == "depth"]
    assert job["finished"] == str(2 * 3 * 3 + 3)


def test_the_same_runs_give_the_same_bytes_and_old_files_go(tmp_path: Path) -> None:
    runs, one, two = (tmp_path / name for name in ("runs", "one", "two"))
    for seed in range(2):
        for overrides, h in ((EM, 0.0), (HEM, 0.5)):
            path = runs / f"{overrides[0][11:]}{seed}"
            write_run(
                path, overrides, seed=seed, miou=0.7 + h / 9 + seed / 8, rows=plausible_rows(3, h, seed)
            )
    write_report([runs], one)
    (two / "tables").mkdir(parents=True)
    (two / "tables/mine.csv").write_text("kept")
    write_report([runs], two)
    written = [path.relative_to(one) for path in one.rglob("*.*")]
    assert len(written) > 20
    for path in written:
        assert (two / path).read_bytes() == (one / path).read_bytes()
    write_report([runs / "hem0"], two)
    assert not (two / "tables/synthetic_hem_cost_ratio.csv").exists()
    assert len(list(two.rglob("*.*"))) < len(written)
    assert (two / "tables/mine.csv").read_text() == "kept"


def test_runs_that_differ_in_a_setting_are_not_averaged(tmp_path: Path) -> None:
    for seed in range(2):
        for lr, miou in ((1e-3, 0.6), (2e-3, 0.8)):
            changed = (*HEM, f"optim.optimizer.lr={lr}")
            write_run(tmp_path / f"lr{lr}_s{seed}", changed, seed=seed, miou=miou)
        for variance, miou in ((1.0, 0.3), (4.0, 0.4)):
            changed = (*HEM, f"model.head.variance={variance}", "trainer.max_epochs=9")
            write_run(tmp_path / f"v{variance}_s{seed}", changed, seed=seed, miou=miou)
        moved = (*HEM, "data.num_workers=3", "trainer.max_epochs=9", "model.head.variance=1.0")
        write_run(tmp_path / f"moved_{seed}", moved, seed=seed + 2, miou=0.3)
    made = sections(collect([tmp_path])[0])
    found = {(s.label, g.label): sorted(g.runs) for s in made for g in s.groups}
    assert found == {
        ("learning rate=0.001, epochs=1", "hem, T=3, h=0.5"): [0, 1],
        ("learning rate=0.002, epochs=1", "hem, T=3, h=0.5"): [0, 1],
        ("learning rate=0.002, epochs=9", "hem, T=3, h=0.5, variance=1"): [0, 1, 2, 3],
        ("learning rate=0.002, epochs=9", "hem, T=3, h=0.5, variance=4"): [0, 1],
    }
    write_report([tmp_path], tmp_path / "report")
    lone = table_of(tmp_path / "report", "synthetic_hem_lone_settings")
    assert sorted(float(row["mIoU"]) for row in lone) == pytest.approx([0.6, 0.8])


def test_the_settings_of_a_gradient_mode_make_no_variant(tmp_path: Path) -> None:
    modes = ["unrolled", "implicit", "{_target_:hemnet.em.Implicit,tolerance:1e-6}"]
    for number, mode in enumerate(modes):
        write_run(tmp_path / str(number), (*HEM, f"model.head.gradient={mode}"), miou=0.5)
    (section,) = sections(collect([tmp_path])[0])
    labels = {group.label for group in section.groups}
    assert labels == {
        "hem, T=3, h=0.5, tolerance=null", "hem, T=3, h=0.5, implicit, tolerance=null",
        "hem, T=3, h=0.5, implicit, tolerance=1e-06",
    }  # fmt: skip
    (variant,) = variants(section)
    assert [group.gradient for group in variant.usual] == ["unrolled"]


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    write_run(tmp_path / "em", EM, miou=0.7)
    write_run(tmp_path / "hem", HEM, miou=0.72)
    write_report([tmp_path], tmp_path / "report")
    page = page_of(tmp_path / "report")
    assert "hem (h=0.5) vs em at T=3: +0.020 mIoU on seed 0 alone: no interval from one seed." in page.text
    assert {value for _, name, value in page.attributes if name == "class"}.isdisjoint({"supported", "noise"})
    assert "gradient flow (gradient/means, T of 2 or more); gradient of the backbone" in page.text
    assert {row["verdict"] for row in table_of(tmp_path / "report", "synthetic_hem_miou_vs_iterations")} == {
        "no interval from one seed"
    }


def test_a_repeated_seed_counts_once_and_a_missing_score_never(tmp_path: Path) -> None:
    write_run(tmp_path / "a", HEM, miou=0.1, started="2026-01-01T00:00:00+0000")
    write_run(tmp_path / "b", HEM, miou=0.7, started="2026-01-03T00:00:00+0000")
    write_run(tmp_path / "c", HEM, miou=0.2, started="2026-01-02T00:00:00+0000")
    write_run(tmp_path / "d", HEM, seed=1, miou=None)
    write_report([tmp_path], tmp_path / "report")
    (row,) = table_of(tmp_path / "report", "leaderboard")
    assert (float(row["mIoU"]), row["seeds"]) == (0.7, "1")
    reasons = {Path(row["run"]).name: row["reason"] for row in table_of(tmp_path / "report", "problems")}
    assert sorted(reasons) == ["a", "c", "d"]


def test_hostile_names_and_torn_files(tmp_path: Path) -> None:
    classes = ["<script>alert(2)</script>", "$\\frac{$", "a&b", "plain"]
    for seed in range(2):
        for overrides in (EM, HEM):
            path = tmp_path / f"{overrides[0][-3:]}{seed}"
            write_run(path, overrides, seed=seed, rows=plausible_rows(3, 0.5, seed), classes=classes)
    (tmp_path / "hem0/figures").mkdir()
    (tmp_path / "hem0/figures/predictions.png").write_bytes(b"torn")
    # What Pillow would hand to Ghostscript.
    (tmp_path / "hem0/figures/attention.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "hem1/metrics.csv").write_text("step,val/miou\n1,0.5\n2,1e-")
    write_report([tmp_path], tmp_path / "report")
    page = page_of(tmp_path / "report")
    assert page.tags.count("script") == 1
    assert "$\\frac{$" in page.text
    assert page.text.count("not a readable image") == 2
    problems = table_of(tmp_path / "report", "problems")
    assert {bad["status"] for bad in problems} == {"finished"}
    *pictures, bad = sorted((Path(bad["run"]).name, bad["reason"]) for bad in problems)
    assert [(name, reason.partition(":")[0]) for name, reason in pictures] == [
        ("hem0", "attention.png"), ("hem0", "predictions.png"),
    ]  # fmt: skip
    assert bad[0] == "hem1"
    assert "metrics.csv: its last row was cut short" in bad[1]


def test_names_and_texts_that_are_no_utf_8(tmp_path: Path) -> None:
    torn = "torn \ud800\0\uffff\ufeff"
    for overrides in (EM, HEM):
        for seed in range(2):
            path = tmp_path / "runs" / f"{overrides[0]}{seed}"[6:]
            write_run(path, overrides, seed=seed, classes=("red", torn, "blue"))
    write_run(tmp_path / "runs/failed", HEM, seed=7, status="failed", error=torn)
    moved = (tmp_path / "runs").rename(tmp_path / (os.fsdecode(b"runs \xff") + "\u202e"))
    write_report([moved], tmp_path / "report")
    page = page_of(tmp_path / "report")
    assert r"torn \ud800\x00\uffff\ufeff" in page.text
    assert "\u202e" not in page.text
    svg = ElementTree.parse(tmp_path / "report/figures/synthetic_hem_classes.svg")
    assert r"\ud800\x00\uffff\ufeff" in [each.text for each in svg.iter()]
    (failed,) = table_of(tmp_path / "report", "problems")
    assert failed["run"].endswith("runs \\udcff\\u202e/failed")
    links = [value for tag, name, value in page.attributes if name == "href" and "runs" in value]
    assert len(links) == 4
    for link in links:
        assert (tmp_path / "report" / os.fsdecode(urllib.parse.unquote_to_bytes(link))).is_dir()


@pytest.mark.parametrize("page", [True, False])
@pytest.mark.parametrize("listing", ["torn", "3", "[" * 99999, "[3]", '{"a": 1}', '["figures/a.pdf"]', ""])
def test_a_report_replaces_no_list_of_something_else(listing: str, page: bool, tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", HEM)
    if page:
        write_report([tmp_path / "runs"], tmp_path / "report")
    (tmp_path / "report").mkdir(exist_ok=True)
    (tmp_path / "report/files.json").write_text(listing)
    before = files_in(tmp_path / "report")
    if page and listing == "":  # a full disk left it so
        write_report([tmp_path / "runs"], tmp_path / "report")
        assert files_in(tmp_path / "report").keys() == before.keys()
        return
    # With a page, a list of file names may be one of an older version, and lacks those that are there.
    which = "/(tables|figures)/" if page and listing == '["figures/a.pdf"]' else r"files\.json"
    with pytest.raises(HemnetError, match=rf"{which}.* is not of a report of hemnet and is not replaced"):
        write_report([tmp_path / "runs"], tmp_path / "report")
    assert files_in(tmp_path / "report") == before


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the content of each file, but the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["tables/overview.csv", "tables/leaderboard.tex", "figures/*_classes.svg"])
def test_a_report_replaces_no_table_or_figure_of_somebody_else(name: str, tmp_path: Path) -> None:
    for head in ("em", "hem"):
        write_run(tmp_path / f"runs/{head}", (f"model/head={head}",))
    write_report([tmp_path / "runs"], tmp_path / "report")
    (place,) = (tmp_path / "report").glob(name)
    own = tmp_path / "own" / place.relative_to(tmp_path / "report")
    own.parent.mkdir(parents=True)
    own.write_text("my own")
    with pytest.raises(HemnetError, match=rf"{own.name} is not of a report of hemnet and is not replaced"):
        write_report([tmp_path / "runs"], tmp_path / "own")
    assert files_in(tmp_path / "own") == {str(own.relative_to(tmp_path / "own")): b"my own"}
    own.unlink()
    write_report([tmp_path / "runs"], tmp_path / "own")
    assert files_in(tmp_path / "own").keys() == files_in(tmp_path / "report").keys()


def test_a_report_that_lost_its_list_is_replaced_and_no_other_file_is_removed(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", HEM)
    out = tmp_path / "report"
    write_report([tmp_path / "runs"], out)
    (out / "files.json").unlink()
    (out / "tables/mine.csv").write_text("1")
    write_run(tmp_path / "others/b", EM)
    write_report([tmp_path / "others"], out)
    write_report([tmp_path / "others"], tmp_path / "again")
    assert (out / "tables/mine.csv").read_text() == "1"
    assert files_in(out).keys() == files_in(tmp_path / "again").keys() | {"tables/mine.csv"}
    assert "tables/mine.csv" not in json.loads((out / "files.json").read_text())["files"]


def test_a_folder_in_the_place_of_an_outdated_file_stays(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", HEM)
    out = tmp_path / "report"
    write_report([tmp_path / "runs"], out)
    listing = json.loads((out / "files.json").read_text())
    (out / "files.json").write_text(json.dumps(listing | {"files": [*listing["files"], "tables/old.csv"]}))
    (out / "tables/old.csv").mkdir()
    write_report([tmp_path / "runs"], out)
    assert (out / "tables/old.csv").is_dir()


@pytest.mark.parametrize("first", [True, False])
def test_what_a_report_that_was_interrupted_left_is_replaced_or_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    out = tmp_path / "report"
    for head in ("em", "hem"):
        write_run(tmp_path / f"runs/{head}", (f"model/head={head}",))
    if not first:
        write_report([tmp_path / "runs"], out)
    write_run(tmp_path / "runs/fcn", ("model/head=fcn",))
    before = files_in(out)
    with monkeypatch.context() as patch:  # while it is drawn
        patch.setattr("hemnet.report.assemble.render", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_report([tmp_path / "runs"], out)
    assert files_in(out) == before
    with monkeypatch.context() as patch:  # while its files are moved to their place
        patch.setattr("hemnet.storage.files.os.replace", moving := Mock(side_effect=half_of(os.replace)))
        with pytest.raises(KeyboardInterrupt):
            write_report([tmp_path / "runs"], out)
    assert moving.call_count == 21
    assert (out / "index.html").exists() != first
    left = files_in(out)
    assert any("heads" in name for name in left)
    shutil.rmtree(tmp_path / "runs/fcn")
    write_report([tmp_path / "runs"], out)
    write_report([tmp_path / "runs"], tmp_path / "again")
    assert files_in(out).keys() == files_in(tmp_path / "again").keys()
    assert not any("heads" in name for name in files_in(out))


def half_of(move: Callable[..., None]) -> Callable[..., None]:
    """A function that moves as `os.replace` does, twenty times."""
    counts = itertools.count()

    def some(*args: Any) -> None:
        if next(counts) == 20:
            raise KeyboardInterrupt
        move(*args)

    return some


@pytest.mark.parametrize("file", ["figures/*.pdf", "figures/*.svg", "tables/*.csv", "index.html"])
def test_a_full_disk_leaves_the_earlier_report(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "runs/a", HEM)
    out = tmp_path / "report"
    write_report([tmp_path / "runs"], out)
    before = files_in(out)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write_run(tmp_path / "runs/b", EM)
    for name, written in (("write_text", Path.write_text), ("write_bytes", Path.write_bytes)):

        def some(path: Path, *args: Any, written: Any = written, **more: Any) -> Any:
            if path.match(file):
                raise full
            return written(path, *args, **more)

        monkeypatch.setattr(Path, name, some)
    with pytest.raises(HemnetError, match=r"cannot write .*No space left.*: choose another --out"):
        write_report([tmp_path / "runs"], out)
    assert files_in(out) == before
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock", "figures", "files.json", "index.html", "tables",
    ]  # fmt: skip


def test_two_reports_at_once_are_not_mixed(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", HEM)
    out = tmp_path / "report"
    write_report([tmp_path / "runs"], out)
    before = files_in(out)
    with (
        hold(out / ".lock"),
        pytest.raises(HemnetError, match=r"another report is being written to .*report"),
    ):
        write_report([tmp_path / "runs"], out)
    assert files_in(out) == before


def test_what_a_report_that_was_killed_left_is_removed(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", HEM)
    out = tmp_path / "report"
    write_report([tmp_path / "runs"], out)
    before = files_in(out)
    (out / ".abcdefgh.part/figures").mkdir(parents=True)
    (out / ".abcdefgh.part/figures/a.pdf").write_text("")
    (out / ".files.01234567.part.json").write_text("")
    write_report([tmp_path / "runs"], out)
    assert files_in(out) == before


def test_a_report_removes_nothing_but_parts_of_a_report(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", HEM)
    (tmp_path / "kept").write_text("")
    (tmp_path / "report").mkdir()
    (tmp_path / "report/index.html").write_text("")  # as a report leaves it that ran out of disk
    listing = ["../kept", str(tmp_path / "kept"), "figures/../../kept"]
    (tmp_path / "report/files.json").write_text(json.dumps(listing))
    write_report([tmp_path / "runs"], tmp_path / "report")
    assert (tmp_path / "kept").is_file()


def test_a_report_that_is_interrupted_leaves_the_page_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "runs/a", HEM)
    page = write_report([tmp_path / "runs"], tmp_path / "report")
    before = page.read_bytes()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("hemnet.storage.files.os.fsync", Mock(side_effect=full))
    with pytest.raises(HemnetError, match=r"cannot write .*No space left.*: choose another --out"):
        write_report([tmp_path / "runs"], tmp_path / "report")
    assert page.read_bytes() == before


@pytest.mark.parametrize(
    ("file", "folder", "out"),
    [("o", "", "o"), ("o", "", "o/x/y"), ("o/tables", "", "o"), ("o/figures", "", "o"),
     ("", "o/index.html", "o"), ("", "o/files.json", "o"), ("", "", "shut/o")],
)  # fmt: skip
def test_output_that_cannot_be_written_is_told_before_runs_are_read(
    file: str, folder: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    if file:
        (tmp_path / file).touch()
    # Root may write wherever the mode forbids it.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "shut")
    with pytest.raises(HemnetError, match=f"cannot write {tmp_path / out} .*: choose another --out"):
        write_report([tmp_path], tmp_path / out)  # where no run is


def test_a_table_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", HEM)
    (tmp_path / "o/tables/leaderboard.csv").mkdir(parents=True)
    listing = {"generator": "hemnet.report", "files": ["tables/leaderboard.csv"]}
    (tmp_path / "o/files.json").write_text(json.dumps(listing))
    with pytest.raises(HemnetError, match=r"cannot write .*leaderboard\.csv.*: choose another --out"):
        write_report([tmp_path / "runs"], tmp_path / "o")


def test_pictures_stay_within_the_budget_and_may_be_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_run(tmp_path / "runs/hem", HEM)
    (tmp_path / "runs/hem/figures").mkdir()
    noise = rng.integers(0, 256, (1500, 1100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "runs/hem/figures/predictions.png")
    write_report([tmp_path / "runs"], tmp_path / "with")
    write_report([tmp_path / "runs"], tmp_path / "without", images=False)
    assert "data:image/webp" in (tmp_path / "with/index.html").read_text()
    assert "data:image/webp" not in (tmp_path / "without/index.html").read_text()
    assert (tmp_path / "with/index.html").stat().st_size < 8e6


def test_errors_for_users(tmp_path: Path) -> None:
    with pytest.raises(HemnetError, match="is no folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "report")
    (tmp_path / "runs").mkdir()
    with pytest.raises(HemnetError, match="no run in"):
        write_report([tmp_path / "runs"], tmp_path / "report")
    assert not (tmp_path / "report").exists()
    write_run(tmp_path / "runs/a", HEM)
    (tmp_path / "index.html").write_text("a page of one's own")
    with pytest.raises(HemnetError, match="is not replaced"):
        write_report([tmp_path / "runs"], tmp_path)
    assert (tmp_path / "index.html").read_text() == "a page of one's own"


def test_nothing_finished_still_gives_a_report(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", HEM, status="failed", error="ValueError: no")
    write_report([tmp_path / "runs"], tmp_path / "report")
    assert "No run has finished yet" in page_of(tmp_path / "report").text


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, told in (
        ([], f"error: {tmp_path / 'runs'} is no folder"),
        ([""], "error: argument FOLDER: a path is empty; for the working folder, write ."),
        (["--out", ""], "error: argument --out: a path is empty"),
    ):
        monkeypatch.setattr(sys, "argv", ["hemnet.report", *words])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("hemnet.report", run_name="__main__")
        assert stop.value.code == 2
        assert told in capsys.readouterr().err
    write_run(tmp_path / "runs/a", HEM)
    done = subprocess.run(
        [sys.executable, "-m", "hemnet.report", "--no-images"], capture_output=True, text=True, check=True
    )
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
    assert (tmp_path / "report/index.html").is_file()


def test_a_run_that_may_be_resumed_is_a_run_of_the_same_settings() -> None:
    config = {"seed": 0, "resume": None, "data": {"root": "/a/CamVid", "batch_size": 4}, "optim": {"lr": 1.0}}
    data = {"root": "b/camvid", "batch_size": 4, "sampler": None}
    elsewhere = config | {"resume": "auto", "data": data, "optim": {"lr": 1}}
    assert settings(config) == settings(elsewhere)
    assert settings(config) != settings(config | {"optim": {"lr": 2.0}})


@pytest.mark.parametrize(("conclusive", "seeds"), [(True, 3), (False, 3), (True, 2)])
def test_nothing_is_supported_by_two_seeds_or_by_a_recipe_that_says_it_tells_nothing(
    conclusive: bool, seeds: int, tmp_path: Path
) -> None:
    for seed in range(seeds):
        for overrides, h in ((EM, 0.0), (HEM, 0.9)):
            rows = plausible_rows(3, h, seed)
            keys = {"conclusive": conclusive}
            path = tmp_path / f"runs/{h}_{seed}"
            write_run(path, overrides, seed=seed, miou=0.6 + h / 4 + seed / 999, rows=rows, keys=keys)
    write_report([tmp_path / "runs"], tmp_path / "report")
    verdicts = [
        row["verdict"]
        for path in (tmp_path / "report/tables").glob("*.csv")
        for row in table_of(tmp_path / "report", path.stem)
        if row.get("verdict")
    ]
    assert len(verdicts) >= 4
    page = page_of(tmp_path / "report")
    shown = ("li", "class", "supported") in page.attributes
    assert ("supported" in verdicts) == shown == (conclusive and seeds == 3)
    if not conclusive:
        assert {*verdicts} == {"not judged (recipe not conclusive)"}


def test_recipes_of_alike_names_have_files_of_their_own(tmp_path: Path) -> None:
    for i, name in enumerate(("A b", "a_b", "日本")):
        for T in (1, 3):
            keys = {"name": name, "model.head.iterations": T, "optim.power": i}
            write_run(tmp_path / "runs" / f"{i} {T}", HEM, miou=0.2 + 0.1 * i, keys=keys)
    write_report([tmp_path / "runs"], tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    linked = re.findall(r'href="(tables/[^"]*)"', page)
    assert len(linked) == len({name.lower() for name in linked})  # a file system may know no case
    stems = {path.stem for path in (tmp_path / "report/tables").glob("*_settings.csv")}
    assert all(re.fullmatch(r"[Aa]_b_[0-9a-f]{6}_settings|___settings", stem) for stem in stems)
    found = {float(table_of(tmp_path / "report", stem)[0]["mIoU"]) for stem in stems}
    assert sorted(found) == pytest.approx([0.2, 0.3, 0.4])
