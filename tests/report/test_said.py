"""What a report leaves out of a chart, a table, a test or a comparison is said on its page."""

import re
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from _helpers.fake_runs import change, plausible_rows, write_run
from _helpers.report_page import page_of, table_of
from PIL import Image

from hemnet.report.chapters.miou_curves import against_depth
from hemnet.report.chapters.training import learning
from hemnet.report.collect import collect
from hemnet.report.contents import Chart
from hemnet.report.groups import sections
from hemnet.report.variants import variants
from hemnet.report.write import write_report

EM, HEM = ("model/head=em",), ("model/head=hem",)
HEADS = ("em", "hem", "fcn", "pspnet", "nonlocal", "deeplabv3plus", "emanet")


def report(folder: Path, *, images: bool = False) -> Path:
    write_report([folder / "runs"], folder / "report", images=images)
    return folder / "report"


def sides(folder: Path, seeds: int, rows_of, **further) -> None:  # type: ignore[no-untyped-def]
    """Write em and hem with these seeds and what ``rows_of`` returns of h and the seed."""
    for overrides, h in ((EM, 0.0), (HEM, 0.5)):
        for seed in range(seeds):
            path = folder / f"runs/{h}_{seed}"
            write_run(path, overrides, seed=seed, miou=0.5, rows=rows_of(h, seed), **further)


def halfway(ratio_of) -> object:  # type: ignore[no-untyped-def]
    """Return a run's rows at T = 3, with a gradient half-way, at t = 1, of ``ratio_of`` of h and the seed."""
    return lambda h, seed: [
        {"step": step, "gradient/means/00": 1.0, "gradient/means/01": ratio_of(h, seed),
         "gradient/means/02": 1.0, "gradient/means/03": 1.0}
        for step in range(9, 100, 10)
    ]  # fmt: skip


def test_holm_is_over_all_comparisons_of_the_table_of_the_gradient(tmp_path: Path) -> None:
    rng = np.random.default_rng(24)
    noise = {(h, seed): 0.15 * rng.normal() for h in (0.0, 0.5) for seed in range(4)}
    sides(tmp_path, 4, halfway(lambda h, seed: float(np.exp(h + noise[h, seed]))))
    rows = table_of(report(tmp_path), "synthetic_hem_gradient_means")
    # Here the phases are equal, and at the first iteration all seeds, which are then not judged.
    assert [row["iteration"] for row in rows] == ["first", "half-way"] * 3
    assert {row["p"] for row in rows[::2]} == {""}
    ps = [float(row["p"]) for row in rows[1::2]]
    assert ps == pytest.approx([ps[0]] * 3)
    assert 0.005 < ps[0] < 0.05  # so that the correction decides
    assert [float(row["p after Holm"]) for row in rows[1::2]] == pytest.approx([3 * ps[0]] * 3)


@pytest.mark.parametrize("zeros", [1, 4])
def test_seeds_without_any_gradient_half_way_are_counted_and_named(tmp_path: Path, zeros: int) -> None:
    sides(tmp_path, 4, halfway(lambda h, seed: 0.0 if h == 0 and seed < zeros else 0.1 + h + 0.01 * seed))
    out = report(tmp_path)
    row = table_of(out, "synthetic_hem_gradient_means")[-1]
    assert (row["n"], row["left out"]) == (str(4 - zeros), str(zeros))
    if zeros == 1:
        means = [np.exp(np.mean(np.log([0.1 + h + 0.01 * s for s in (1, 2, 3)]))) for h in (0.0, 0.5)]
        assert [float(row["h = 0"]), float(row["this h"])] == pytest.approx(means)
        assert float(row["ratio"]) == pytest.approx(means[1] / means[0])
    else:
        assert row["verdict"] == "no seed has a value in both"
    named = "seed 0" if zeros == 1 else "seeds 0 to 3"
    text = page_of(out).text
    assert f"({named}: the gradient of one of the two is 0)" in text
    shown = re.findall(r'<li class="(\w+)">(Gradient left half-way[^<]*)', (out / "index.html").read_text())
    assert [kind for kind, _ in shown] == ["supported" if zeros == 1 else "open"]


def test_iterations_of_evaluation_that_are_not_those_of_training_have_their_chapters(tmp_path: Path) -> None:
    """Metrics of evaluation, em/*, have its T; those of the gradient have the T of training."""

    def rows(h: float, seed: int) -> list[dict[str, float]]:
        later = plausible_rows(8, h, seed)
        trained = plausible_rows(3, h, seed)
        return [row for row in trained if "em/entropy/00" not in row] + [
            row for row in later if "em/entropy/00" in row
        ]

    sides(tmp_path, 2, rows, keys={"model.head.iterations_eval": 8})
    out = report(tmp_path)
    assert not (out / "tables/problems.csv").exists()
    found = table_of(out, "synthetic_hem_convergence")
    assert [(row["T"], row["T of evaluation"]) for row in found] == [("3", "8")] * 2
    for row, h in zip(found, (0.0, 0.5), strict=True):
        last = [[r for r in rows(h, seed) if "em/entropy/08" in r][-1]["em/entropy/08"] for seed in range(2)]
        assert float(row["last entropy"]) == pytest.approx(np.mean(last))
    assert {path.stem for path in (out / "figures").glob("*.svg")} >= {
        f"synthetic_hem_{name}" for name in ("gradient_means", "log_likelihood", "convergence")
    }
    assert all(float(row["ratio"]) > 1 for row in table_of(out, "synthetic_hem_gradient_means"))


def test_the_largest_gradient_is_that_of_all_logged_steps(tmp_path: Path) -> None:
    """Of a run that logs more steps than a chart draws."""
    values = 1 + np.random.default_rng(0).exponential(size=1500)
    logged = [{"step": step, "gradient/backbone/all": value} for step, value in enumerate(values)]
    sides(tmp_path, 1, lambda h, seed: logged)
    row = table_of(report(tmp_path), "synthetic_hem_gradient_backbone")[0]
    assert float(row["mean of largest"]) == pytest.approx(values.max())
    assert float(row["mean of medians"]) == pytest.approx(np.median(values))


def test_what_is_said_of_times_is_said_of_each_t(tmp_path: Path) -> None:
    ratios = {1: (1.01, 0.99, 1.0), 2: (5.0, 5.1), 4: (5.0, 5.1, 5.2), 8: (2.0, 2.0, 2.0)}
    for T, factors in ratios.items():
        for seed, factor in enumerate(factors):
            for overrides, seconds in ((EM, 1.0 + seed), (HEM, factor * (1.0 + seed))):
                path = tmp_path / f"runs/{overrides[0][11:]}{T}_{seed}"
                cost = [{"step": 9, "cost/seconds_per_step": seconds}]
                write_run(path, overrides, seed=seed, rows=cost, keys={"model.head.iterations": T})
    text = " ".join(page_of(report(tmp_path)).text.split())
    (said,) = re.findall(r"at T=8 \(n=3 seeds\); (.*?) \(not corrected for their number\)\.", text)
    assert sorted(said.split("; ")) == [
        "not judged (fewer than 3 seeds) at T=2", "not judged (no spread between the seeds) at T=8",
        "the 95% interval contains 1 at T=1", "the 95% interval excludes 1 at T=4",
    ]  # fmt: skip


@pytest.mark.parametrize(("file", "key", "value"), [
    ("result.json", "device", "NVIDIA H100"), ("result.json", "processes", 2),
    ("environment.json", "cpu_threads", 2), ("environment.json", "cpu_instructions", "AVX512"),
])  # fmt: skip
def test_times_of_several_machines_are_not_compared(
    tmp_path: Path, file: str, key: str, value: object
) -> None:
    seconds = [{"step": 9, "cost/seconds_per_step": 1.0, "cost/parameters": 5.0}]
    sides(tmp_path, 3, lambda h, seed: seconds)
    for run in (tmp_path / "runs").iterdir():
        change(run / "environment.json", "cpu_threads", 1)
    alike = report(tmp_path)
    assert float(table_of(alike, "synthetic_hem_cost_ratio")[0]["s per step, ratio"]) == 1
    assert "several machines" not in page_of(alike).text
    for run in (tmp_path / "runs").glob("0.5_*"):
        change(run / file, key, value)
    if (
        key == "processes"
    ):  # with half the images each, normalised together, so that the settings are the same
        for h, images in ((0.0, 8), (0.5, 4)):
            for run in (tmp_path / "runs").glob(f"{h}_*"):
                change(run / "config.yaml", "data.batch_size", images)
                change(run / "config.yaml", "trainer.sync_batchnorm", True)
    if key == "cpu_instructions":  # which the other runs did not record, and may have
        assert "several machines" not in page_of(report(tmp_path)).text
        for run in (tmp_path / "runs").glob("0.0_*"):
            change(run / file, key, "AVX2")
    out = report(tmp_path)
    row = table_of(out, "synthetic_hem_cost_ratio")[0]
    assert (row["s per step, ratio"], float(row["parameters, ratio"])) == ("", 1)
    text = page_of(out).text
    assert "Time of a step" not in text
    assert "these runs are of several" in text
    assert "The runs are of several machines, by which minutes differ too." in text


def test_what_charts_have_no_room_for_is_named_and_stands_in_the_tables(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(40)]
    for i, head in enumerate(HEADS):
        run = write_run(tmp_path / f"runs/{head}", (f"model/head={head}",), miou=0.5 + i / 99, classes=names)
        (run / "figures").mkdir()
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(run / "figures/predictions.png")
    out = report(tmp_path, images=True)
    rows = table_of(out, "synthetic_hem_classes")
    assert len(rows) == 40
    assert {"em", "hem", "emanet", "fcn", "pspnet", "nonlocal", "deeplabv3plus"} <= {
        name.partition(",")[0] for name in rows[0]
    }
    text = page_of(out).text
    assert "Not drawn, for lack of room: " in text
    assert "the table has all 40" in text
    assert "Not shown, for lack of room: predictions of " in text
    drawn = (out / "figures/synthetic_hem_classes.svg").read_text()
    assert sum(f">{name}<" in drawn for name in names) == 30
    cut = text.partition("Not drawn, for lack of room: ")[2].partition(";")[0]
    assert f">{cut}<" not in drawn


def test_no_two_lines_of_a_chart_look_alike_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    """Of many settings of heads without a highway: by colour, dashes and marker."""
    dropouts = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    rows = [{"step": step, "val/miou": 0.4 + step / 9999} for step in (9, 99)]
    for T, (head, dropout) in product((3, 8), product(("em", "hem", "emanet", "fcn"), dropouts)):
        if head in ("em", "hem") and dropout:
            continue
        keys = {"model.head.dropout": dropout} | ({} if head == "fcn" else {"model.head.iterations": T})
        if head != "fcn" or T == 3:
            write_run(tmp_path / f"runs/{head}_{T}_{dropout}", (f"model/head={head}",), keys=keys, rows=rows)
    (section,) = sections(collect([tmp_path / "runs"])[0])
    variant = variants(section)[0]
    for write in (against_depth, learning):
        (chart,) = [item for item in write(section, variant, "n").items if isinstance(item, Chart)]
        styles = {}
        for axis in chart.draw().axes:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                line = handle[0] if isinstance(handle, tuple) else handle  # with its interval
                about = (line.get_color(), line._dash_pattern, line.get_marker())
                assert styles.setdefault(str(about), label) == label
        assert len(styles) >= 6
        left = chart.note.partition("Not drawn, for lack of room: ")[2]
        assert "fcn, dropout=0.4; fcn, dropout=0.5" in left


def test_few_settings_that_are_alone_have_chapters_and_many_have_a_table_that_says_so(
    tmp_path: Path,
) -> None:
    for count in (2, 6):
        for i in range(count):
            keys = {"trainer.max_epochs": 3 + i}
            write_run(tmp_path / f"{count}/runs/{i}", HEM, rows=plausible_rows(3, 0.5, 0), keys=keys)
        out = report(tmp_path / str(count))
        charts = [path.stem for path in (out / "figures").glob("*_gradient_means.svg")]
        assert len(charts) == (2 if count == 2 else 0)
        assert len(table_of(out, "synthetic_hem_lone_settings")) == count
        assert ("are left out, for lack of room" in page_of(out).text) == (count == 6)


def test_what_is_left_out_of_a_section_is_said_with_what_it_needs(tmp_path: Path) -> None:
    """Of hem beside another head, the backbone's gradient was logged, and there is nothing to compare."""
    for head in ("hem", "fcn"):
        rows = plausible_rows(3, 0.5, 0)
        write_run(tmp_path / f"runs/{head}", (f"model/head={head}",), rows=rows)
    text = page_of(report(tmp_path)).text
    assert "no data" not in text
    assert "in parentheses is what each needs, settings to compare or metrics that runs log:" in text


def test_the_same_recipe_with_and_without_conclusive_scores_has_two_headings(tmp_path: Path) -> None:
    for conclusive in (True, False):
        for overrides in (EM, HEM):
            path = tmp_path / f"runs/{conclusive}{overrides[0][11:]}"
            write_run(path, overrides, keys={"conclusive": conclusive})
    html = (report(tmp_path) / "index.html").read_text()
    assert "synthetic_hem (conclusive=False)</h2>" in html


def test_hem_is_compared_with_other_heads_at_a_t_that_has_it(tmp_path: Path) -> None:
    """Also where most runs are of a T that has another h alone."""

    def write(name: str, seeds: int, *overrides: str) -> None:
        for seed in range(seeds):
            write_run(tmp_path / f"runs/{name}{seed}", overrides, seed=seed, miou=0.5 + seed / 99)

    for T in (1, 2):
        write(f"T{T}_", 2, *HEM, f"model.head.iterations={T}")
    write("other", 4, *HEM, "model.head.iterations=3", "model.head.highway_scale=0.9")
    write("fcn", 2, "model/head=fcn")
    out = report(tmp_path)
    heads = [row["head"] for row in table_of(out, "synthetic_hem_heads")]
    assert heads == ["hem, T=2, h=0.5", "fcn"]


def test_heads_that_iterate_are_compared_at_equal_t_or_not_at_all(tmp_path: Path) -> None:
    for seed in range(3):
        for T, miou in ((3, 0.5), (8, 0.9)):
            overrides = (*HEM, f"model.head.iterations={T}")
            write_run(tmp_path / f"runs/hem{T}_{seed}", overrides, seed=seed, miou=miou + seed / 99)
        write_run(tmp_path / f"runs/em{seed}", (*EM, "model.head.iterations=8"), seed=seed, miou=0.8)
        for T in (3, 4):
            overrides = ("model/head=emanet", f"model.head.iterations={T}")
            write_run(tmp_path / f"runs/emanet{T}_{seed}", overrides, seed=seed, miou=0.4 + seed / 50)
        write_run(tmp_path / f"runs/fcn{seed}", ("model/head=fcn",), seed=seed, miou=0.3 + seed / 50)
    rows = {row["head"]: row for row in table_of(report(tmp_path), "synthetic_hem_heads")}
    beside = {
        name: (row["compared with"], row["difference"][:4]) for name, row in rows.items() if row["verdict"]
    }
    assert beside == {
        "emanet, T=3": ("hem, T=3, h=0.5", "0.09"), "emanet, T=4": ("", ""),
        "fcn": ("hem, T=8, h=0.5", "0.59"),
    }  # fmt: skip
    assert rows["emanet, T=4"]["verdict"] == "none of its settings at T=4"


def test_seeds_that_did_not_finish_are_told_beside_the_scores_of_those_that_did(tmp_path: Path) -> None:
    """A mean over those that survived is not one over all that were trained."""
    sides(tmp_path, 5, lambda h, seed: [{"step": 9}])
    for seed, status in ((3, "failed"), (4, None)):
        path = tmp_path / f"runs/0.0_{seed}/result.json"
        if status is None:
            path.unlink()
        else:
            change(path, "status", status)
    for seed in range(3):
        change(tmp_path / f"runs/0.5_{seed}/result.json", "val/miou", 0.6 + seed / 99)
    out = report(tmp_path)
    row = table_of(out, "synthetic_hem_miou_vs_iterations")[0]
    assert (row["seeds in common"], row["left out"]) == ("3", "2")
    text = " ".join(page_of(out).text.split())
    assert "n=3 seeds without seeds 3, 4, of which em has none (2 of em did not finish)" in text
    recipes = [row["recipe"] for row in table_of(out, "leaderboard")]
    assert "synthetic_hem (2 seeds did not finish)" in recipes


def test_files_keep_their_names_when_more_runs_come(tmp_path: Path) -> None:
    """A file's name stands for its contents, so a paper that includes one never shows another."""

    def write(variance: float, seeds: int, miou: float) -> None:
        for overrides in (EM, HEM):
            for seed in range(seeds):
                path = tmp_path / f"runs/{variance}{overrides[0][11:]}{seed}"
                if not path.exists():
                    write_run(path, (*overrides, f"model.head.variance={variance}"), seed=seed, miou=miou)

    def scores() -> dict[str, str]:
        tables = (report(tmp_path) / "tables").glob("*_miou_vs_iterations.csv")
        return {path.stem: table_of(path.parents[1], path.stem)[0]["em"] for path in tables}

    write(1.0, 1, 0.25)
    write(2.0, 2, 0.5)
    before = scores()
    assert sorted(before.values()) == ["0.25", "0.5"]
    write(1.0, 3, 0.25)  # now it has the most runs
    assert scores() == before


def test_what_a_chapter_shows_of_one_variant_names_the_settings_of_the_others(tmp_path: Path) -> None:
    rows = plausible_rows(3, 0.5, 0)
    for variance in (1.0, 2.0):
        for overrides in (EM, HEM):
            path = tmp_path / f"runs/{variance}{overrides[0][11:]}"
            write_run(path, (*overrides, f"model.head.variance={variance}"), rows=rows)
    html = (report(tmp_path) / "index.html").read_text()
    for chapter in ("Learning curves", "Cost", "Classes"):
        shown = html.partition(f"<h3>{chapter}</h3>")[2].partition("<h3>")[0]
        assert "Of em and hem, it does not have: " in shown, chapter


def test_a_head_is_compared_with_hem_of_its_own_settings(tmp_path: Path) -> None:
    """Not with the hem that has most runs: of 8 components, while EMANet's head has 64."""
    for components, seeds, miou in ((8, 4, 0.6), (64, 3, 0.4)):
        keys = {"model.head.num_components": components}
        for seed in range(seeds):
            write_run(
                tmp_path / f"runs/{components}_{seed}", HEM, seed=seed, miou=miou + seed / 99, keys=keys
            )
            if components == 64:
                score = miou + seed / 99 + 0.001 * (seed % 2)
                path = tmp_path / f"runs/emanet{seed}"
                write_run(path, ("model/head=emanet",), seed=seed, miou=score, keys=keys)
            if seed < 3:
                path = tmp_path / f"runs/later{components}_{seed}"
                later = {"model.head.iterations_eval": 5, "model.head.num_components": 3}
                write_run(path, ("model/head=emanet",), seed=seed, miou=0.1, keys=later)
    out = report(tmp_path)
    (path,) = (out / "tables").glob("*_heads.csv")
    rows = {row["head"].partition(",")[0] + row["seeds in common"]: row for row in table_of(out, path.stem)}
    row = rows["emanet3"]
    assert "components=64" in row["compared with"]
    assert abs(float(row["difference"])) < 0.001
    untested = [row for row in table_of(out, path.stem) if row["verdict"].startswith("none of its settings")]
    assert len(untested) == 1


def test_holm_is_over_all_variants_of_a_section(tmp_path: Path) -> None:
    """Of many variants of pure noise some have a small p."""
    noise = np.random.default_rng(2).normal(size=(6, 2, 3)) * 0.01 + 0.5
    for i, of in enumerate(noise):
        for overrides, scores in zip((EM, HEM), of, strict=True):
            for seed, miou in enumerate(scores):
                path = tmp_path / f"runs/{i}{overrides[0][11:]}{seed}"
                keys = {"model.head.variance": 1.0 + i}
                write_run(path, overrides, seed=seed, miou=float(miou), keys=keys)
    out = report(tmp_path)
    tables = (out / "tables").glob("*_miou_vs_iterations.csv")
    rows = sorted((row for path in tables for row in table_of(out, path.stem)), key=lambda r: float(r["p"]))
    assert len(rows) == 6
    assert float(rows[0]["p after Holm"]) == pytest.approx(min(1, 6 * float(rows[0]["p"])))


def test_runs_of_unknown_size_that_did_not_finish_are_told(tmp_path: Path) -> None:
    """Of a run on all devices that was killed, nobody knows how many these were."""
    sides(
        tmp_path, 5, lambda h, seed: [{"step": 9}], keys={"trainer.devices": -1, "trainer.accelerator": "gpu"}
    )
    for run in (tmp_path / "runs").iterdir():
        change(run / "result.json", "processes", 2)
    for seed in (3, 4):
        (tmp_path / f"runs/0.0_{seed}/result.json").unlink()
    text = " ".join(page_of(report(tmp_path)).text.split())
    assert "of which em has none (2 of em did not finish)" in text


def test_the_largest_gradient_of_a_run_that_exploded_is_infinite(tmp_path: Path) -> None:
    values = {0: [100.0, float("inf"), 100.0], 1: [1.0] * 3, 2: [1.0, float("nan"), 1.0]}

    def rows(h: float, seed: int) -> list[dict[str, float]]:
        return [{"step": step, "gradient/backbone/all": value} for step, value in enumerate(values[seed])]

    sides(tmp_path, 3, rows)
    out = report(tmp_path)
    row = table_of(out, "synthetic_hem_gradient_backbone")[0]
    assert float(row["mean of medians"]) == pytest.approx(100 ** (1 / 3))
    assert (row["mean of largest"], row["n"]) == ("inf", "3")
    assert "∞" in page_of(out).text


def test_rows_of_the_leaderboard_with_one_recipe_have_names_of_their_own(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"runs/base{seed}", (*EM, "name=base"), seed=seed)
    write_run(tmp_path / "runs/one", (*HEM, "name=mine"))
    write_run(tmp_path / "runs/two", (*HEM, "name=mine", "optim.optimizer.lr=0.1"))
    rows = [(row["recipe"], row["setting"]) for row in table_of(report(tmp_path), "leaderboard")]
    assert len({*rows}) == len(rows) == 3


@pytest.mark.parametrize("chapter", ["heads", "classes", "cost_ratio", "miou_vs_iterations"])
def test_the_file_of_a_chapter_on_one_variant_is_named_by_that_variant(tmp_path: Path, chapter: str) -> None:
    def write(variance: float, seeds: int) -> None:
        for overrides in (EM, HEM):
            for seed in range(seeds):
                path = tmp_path / f"runs/{variance}{overrides[0][11:]}{seed}"
                keys = {"model.head.variance": variance}
                if not path.exists():
                    cost = [{"step": 9, "cost/parameters": variance}]
                    write_run(path, overrides, seed=seed, miou=variance / 4, rows=cost, keys=keys)

    def tables() -> dict[str, str]:
        return {
            path.name: path.read_text() for path in (report(tmp_path) / "tables").glob(f"*_{chapter}.csv")
        }

    write_run(tmp_path / "runs/fcn", ("model/head=fcn",))
    write(1.0, 1)
    write(2.0, 1)
    before = tables()
    write(2.0, 3)
    after = tables()
    assert all(
        after[name].splitlines()[0] == before[name].splitlines()[0] for name in before.keys() & after.keys()
    )
    if chapter != "miou_vs_iterations":
        assert len(before) == len(after) == 1
        assert before.keys() != after.keys() or before == after


def test_a_recipe_that_names_the_section_no_more_gives_its_name_to_no_other(tmp_path: Path) -> None:
    def scores() -> dict[str, str]:
        out = report(tmp_path)
        tables = (out / "tables").glob("*_miou_vs_iterations.csv")
        return {path.stem: table_of(out, path.stem)[0]["em"] for path in tables}

    for overrides, miou in ((EM, 0.5), (HEM, 0.6)):
        write_run(tmp_path / f"runs/{miou}", overrides, miou=miou)
    before = scores()
    for head in ("fcn", "pspnet", "nonlocal"):
        write_run(tmp_path / f"runs/{head}", (f"model/head={head}", "name=heads"))
    for overrides, miou in ((EM, 0.1), (HEM, 0.2)):
        write_run(tmp_path / f"runs/{miou}", (*overrides, "optim.optimizer.lr=0.1"), miou=miou)
    after = scores()
    assert sorted(after.values()) == ["0.1", "0.5"]
    assert all(before[name] == after[name] for name in before.keys() & after.keys())


def test_a_seed_that_diverged_is_named_and_the_others_are_drawn(tmp_path: Path) -> None:
    def rows_of(h: float, seed: int) -> list[dict[str, float]]:
        rows = plausible_rows(3, h, seed)
        for row in rows if h and seed == 1 else ():
            if row["step"] > 700:
                diverged = [name for name in row if name.startswith(("gradient/", "em/", "val/"))]
                row.update(dict.fromkeys(diverged, float("nan")))
        return rows

    sides(tmp_path, 3, rows_of)
    change(tmp_path / "runs/0.5_1/result.json", "val/miou", None)
    out = report(tmp_path)
    text = page_of(out).text
    named = "Not in each mean, for want of values: seed 1 of hem (h=0.5) at T=3."
    assert text.count(named) == 6  # of learning, norms, means, shares, likelihood and the rest of convergence
    board = {row["setting"]: row["recipe"] for row in table_of(out, "leaderboard")}
    assert board["hem, T=3, h=0.5"].endswith("(1 seed without a score)")
    assert (
        "n=2 seeds without seed 1, of which hem (h=0.5) has none (1 of hem (h=0.5) finished without a score)"
        in text
    )


def test_a_metric_that_stops_before_training_does_is_in_no_mean_of_its_end(tmp_path: Path) -> None:
    def rows_of(h: float, seed: int) -> list[dict[str, float]]:
        rows = plausible_rows(3, h, seed)
        if not (h and seed == 1):
            return rows
        return [
            {
                name: value
                for name, value in row.items()
                if row["step"] <= 700 or not name.startswith("gradient/")
            }
            for row in rows
        ]

    sides(tmp_path, 4, rows_of)
    out = report(tmp_path)
    rows = table_of(out, "synthetic_hem_gradient_means")
    assert {(row["phase"], row["n"]) for row in rows} == {("start", "4"), ("middle", "3"), ("end", "3")}
    shares = table_of(out, "synthetic_hem_gradient_share")
    assert {(row["head"], row["phase"]): row["n"] for row in shares} == {
        ("em", "start"): "4", ("em", "middle"): "4", ("em", "end"): "4",
        ("hem (h=0.5)", "start"): "4", ("hem (h=0.5)", "middle"): "3", ("hem (h=0.5)", "end"): "3",
    }  # fmt: skip
    assert [row["n"] for row in table_of(out, "synthetic_hem_gradient_backbone")] == ["4", "3"]
    (problem, *_) = [row for row in table_of(out, "problems") if "gradient/share was" in row["reason"]]
    told = (
        "gradient/share was logged from step 24 to 699 of 1499 alone, so it is in no mean at the middle and "
    )
    assert f"{told}end of training" in problem["reason"]


def test_a_setting_of_which_no_run_finished_is_named(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"runs/em{seed}", EM, seed=seed)
        write_run(tmp_path / f"runs/hem{seed}", HEM, seed=seed, status="failed", error="it diverged")
    write_run(tmp_path / "runs/fast", EM, seed=0, status=None, keys={"optim.optimizer.lr": 9.0})
    text = re.sub(r"\s+", " ", page_of(report(tmp_path)).text)
    told = "Settings of which no run has finished, and so without a row: "
    told += "em, T=3, learning rate=9 (1 unfinished); hem, T=3, h=0.5, learning rate=0.002 (3 failed)."
    assert told in text


def test_a_copy_of_a_run_took_no_time(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", HEM)
    hours = {row["what"]: row["found"] for row in table_of(report(tmp_path), "overview")}["hours of training"]
    shutil.copytree(tmp_path / "runs/a", tmp_path / "runs/b")
    out = report(tmp_path)
    assert {row["what"]: row["found"] for row in table_of(out, "overview")}["hours of training"] == hours
    assert [row["reason"] for row in table_of(out, "problems")] == [
        "another run, a later one or a copy, has the same settings and seed"
    ]


def test_shares_and_their_evenness_are_in_a_table(tmp_path: Path) -> None:
    held = {0: (0.2, 0.2, 0.2, 0.4), 1: (0.0, 0.0, 0.5, 0.5)}
    for seed, shares in held.items():
        rows = [
            {"step": step, **{f"gradient/means/{t:02d}": 1.0 for t in range(4)},
             **{f"gradient/share/{t:02d}": share for t, share in enumerate(shares)}}
            for step in range(9, 100, 10)
        ]  # fmt: skip
        for overrides in (EM, HEM):
            write_run(tmp_path / f"runs/{overrides[0][11:]}{seed}", overrides, seed=seed, rows=rows)
    for row in table_of(report(tmp_path), "synthetic_hem_gradient_share"):
        found = [float(row[name]) for name in ("first", "half-way", "last", "reconstruction", "evenness")]
        assert found == pytest.approx([0.1, 0.1, 0.35, 0.45, (1 + 1 / 3) / 2])


@pytest.mark.parametrize("modes", [("detached",), ("detached", "one_step")])
def test_gradient_modes_are_counted_and_named_by_what_they_differ_in(
    tmp_path: Path, modes: tuple[str, ...]
) -> None:
    """Though another variant, with unit means, makes the names of the section longer."""
    rng = np.random.default_rng(3)
    sides = [
        HEM,
        *((*HEM, f"model.head.gradient={mode}") for mode in modes),
        (*HEM, "model.head.normalize=l2"),
    ]
    for (place, overrides), seed in product(enumerate(sides), range(3)):
        miou = 0.5 + 0.1 * place + 0.01 * rng.random()
        write_run(tmp_path / f"runs/{place}_{seed}", overrides, seed=seed, miou=miou)
    page = page_of(report(tmp_path))
    n = len(modes)
    assert f"Of {n} difference{'s' * (n > 1)} of other modes from unrolled: {n} supported." in page.text
    hem = "hem, T=3, h=0.5"
    for mode in modes:
        assert f"{hem}, {mode} vs {hem}: +0." in page.text
    modes_table = next((tmp_path / "report").rglob("*_gradient_modes.csv"))
    assert [row["setting"] for row in table_of(tmp_path / "report", modes_table.stem)] == [
        f"{hem}, {mode}" for mode in modes
    ]
