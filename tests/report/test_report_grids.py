"""T against step size in the report, on runs of known scores, against numbers worked out by hand."""

import csv
import re
from pathlib import Path

import pytest
from _helpers.fake_runs import write_evaluation, write_run

from hemnet.report.write import write_report

T_975_1 = 12.706204736  # Student's t for two seeds, from a table


def scored(root: Path, T: int, eta: float | None, *mious: float | None, **more: object) -> list[Path]:
    """Write a run per seed; eta None is EMANet."""
    head = ["model/head=emanet"] if eta is None else ["model/head=hem", f"model.head.highway_scale={1 - eta}"]
    overrides = (*head, f"model.head.iterations={T}")
    return [
        write_run(root / f"T{T}_{eta}_{seed}", overrides, seed=seed, miou=miou, **more)
        for seed, miou in enumerate(mious)
    ]


def table_of(out: Path, name: str) -> dict[str, dict[str, str]]:
    with (out / "tables" / f"synthetic_hem_{name}.csv").open() as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grids")
    runs = folder / "runs"
    scored(runs, 1, 0.5, 0.60, 0.62)
    scored(runs, 1, 1.0, 0.70, 0.74)
    scored(runs, 2, 0.5, 0.80, 0.84)
    scored(runs, 2, 1.0, 0.50)
    scored(runs, 4, 1.0, None, status="failed", error="RuntimeError: no")
    scored(runs, 4, 0.5, 0.40)
    scored(runs, 1, None, 0.30, 0.32)
    scored(runs, 2, None, 0.36, 0.38)
    for T, eta, scores in (
        (2, 0.5, {2: (0.80, 0.84), 4: (0.81, 0.87)}),
        (2, 1.0, {2: (0.50,), 8: (0.45,)}),
        (2, None, {2: (0.36, 0.38), 4: (0.30, None)}),
        (4, 0.5, {4: (0.40,)}),
    ):
        for T_eval, mious in scores.items():
            for seed, miou in enumerate(mious):
                write_evaluation(runs / f"T{T}_{eta}_{seed}", T_eval, miou)
    write_report([runs], folder / "report")
    return folder / "report"


def cells(rows: dict[str, dict[str, str]], end: str = "") -> dict[str, list[float | None]]:
    """Return of each row what stands under η=0.5, η=1 and EMANet."""
    heads = [f"{head}{end}" for head in ("η=0.5", "η=1", "EMANet")]
    return {T: [float(row[head]) if row[head] else None for head in heads] for T, row in rows.items()}


def test_rows_are_t_of_training_and_columns_step_sizes_and_emanet(report: Path) -> None:
    rows = table_of(report, "grid_train")
    assert next(iter(rows["1"])) == "T_train"
    means = cells(rows)
    assert means["1"] == pytest.approx([0.61, 0.72, 0.31])
    assert means["2"] == pytest.approx([0.82, 0.50, 0.37])
    assert means["4"] == [0.40, None, None], "a cell of which no run has finished is empty"
    assert cells(rows, " n") == {"1": [2, 2, 2], "2": [2, 1, 2], "4": [1, None, None]}
    # 0.60 and 0.62 have the standard deviation 0.02 / sqrt(2), and their mean has 0.01.
    low, high = (cells(rows, end)["1"][0] for end in (" low", " high"))
    assert (low, high) == pytest.approx((0.61 - 0.01 * T_975_1, 0.61 + 0.01 * T_975_1))
    assert cells(rows, " low")["2"][1] is None, "one seed has no interval"
    tex = (report / "tables/synthetic_hem_grid_train.tex").read_text()
    assert r"T\_train & $\eta$=0.5 & $\eta$=1 & EMANet \\" in tex
    assert r"2 & 0.820 [0.566, 1.000]\dag{} & 0.500 (n=1) & 0.370 $\pm$~0.127 \\" in tex, (
        "a score is at most 1"
    )
    assert r"\dag{} A 95\% interval that is cut where no such value can lie" in tex
    assert r"4 & 0.400 (n=1) & -- & -- \\" in tex


def test_rows_are_t_of_evaluation_where_a_t_of_training_has_two_step_sizes(report: Path) -> None:
    rows = table_of(report, "grid_eval_T2")
    means = cells(rows)
    assert means["2"] == pytest.approx([0.82, 0.50, 0.37])
    assert means["4"] == pytest.approx([0.84, None, 0.30]), "an evaluation without a score counts for none"
    assert means["8"] == pytest.approx([None, 0.45, None])
    assert cells(rows, " n")["4"] == [2, None, 1]
    assert not (report / "tables/synthetic_hem_grid_eval_T1.csv").exists(), "nothing was evaluated"
    assert not (report / "tables/synthetic_hem_grid_eval_T4.csv").exists(), "one step size is no grid"


def test_the_heat_map_shows_each_mean_and_its_count(report: Path) -> None:
    texts = re.findall(
        r"<text[^>]*>([^<]*)</text>", (report / "figures/synthetic_hem_grid_train.svg").read_text()
    )
    assert [text for text in texts if re.fullmatch(r"0\.\d{3}|n=\d", text)] == [
        "0.610", "n=2", "0.720", "n=2", "0.310", "n=2",
        "0.820", "n=2", "0.500", "n=1", "0.370", "n=2",
        "0.400", "n=1",
    ]  # fmt: skip
    assert {"η=0.5", "η=1", "EMANet", "T_train"} <= {*texts}
    for name in ("grid_train", "grid_train_lines", "grid_eval_T2", "grid_eval_T2_lines"):
        assert (report / f"figures/synthetic_hem_{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_page_says_where_the_highest_means_are(report: Path) -> None:
    text = " ".join((report / "index.html").read_text().replace("\N{NO-BREAK SPACE}", " ").split())
    assert (
        "At each T_train, the η of the highest mean (not tested): 1 → 1; 2 → 0.5. In a column, its T_train: "
        "0.5 → 2; 1 → 1; EMANet → 2."
    ) in text
    assert "n = 2 unless a cell says otherwise" in text


def test_all_that_tie_in_the_digits_shown_are_named_and_bold(tmp_path: Path) -> None:
    for T, mious in ((1, (0.5001, 0.5004, 0.4, 0.4)), (2, (0.3,) * 4), (4, (0.4, 0.4, 0.4, 0.3))):
        for eta, miou in zip((0.25, 0.5, 0.75, 1.0), mious, strict=True):
            scored(tmp_path / "runs", T, eta, miou)
    write_report([tmp_path / "runs"], tmp_path / "report")
    text = (tmp_path / "report/index.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "the η of the highest mean (not tested): 1 → 0.25 and 0.5; 2 → all tie; 4 → 0.25, 0.5 and 0.75."
        in text
    )
    svg = (tmp_path / "report/figures/synthetic_hem_grid_train.svg").read_text()
    bold = re.findall(r"<text[^>]*font-weight: 700[^>]*>([^<]*)</text>", svg)
    assert bold == ["0.500"] * 2 + ["0.300"] * 4 + ["0.400"] * 3


def test_what_was_evaluated_of_another_checkpoint_does_not_count(tmp_path: Path) -> None:
    for eta in (0.5, 1.0):
        for run in scored(tmp_path / "runs", 2, eta, 0.5):
            (run / "checkpoints").mkdir()
            (run / "checkpoints/last.ckpt.sha256").write_text(f"{'a' * 64}  last.ckpt\n")
            write_evaluation(run, 1, 0.4, checkpoint="a" * 64)
            write_evaluation(run, 2, 0.5, checkpoint="a" * 64)
            write_evaluation(run, 3, 0.6, checkpoint="b" * 64)
    write_report([tmp_path / "runs"], tmp_path / "report")
    assert list(table_of(tmp_path / "report", "grid_eval_T2")) == ["1", "2"]


def test_without_two_of_each_there_is_no_grid(tmp_path: Path) -> None:
    scored(tmp_path / "runs", 1, 0.5, 0.5)
    scored(tmp_path / "runs", 1, 1.0, 0.5)
    scored(tmp_path / "runs", 2, None, 0.5)
    write_report([tmp_path / "runs"], tmp_path / "report")
    assert not list((tmp_path / "report/tables").glob("*grid*"))
    assert "T of training and step size (two of each)" in (tmp_path / "report/index.html").read_text()


def test_emanets_of_two_kinds_are_two_columns(tmp_path: Path) -> None:
    for T in (1, 2):
        scored(tmp_path / "runs", T, 0.5, 0.5)
        scored(tmp_path / "runs", T, 1.0, 0.5)
        scored(tmp_path / "runs", T, None, 0.3)
        other = ("model/head=emanet", f"model.head.iterations={T}", "model.head.momentum=0.5")
        write_run(tmp_path / f"runs/other{T}", other, miou=0.4)
    write_report([tmp_path / "runs"], tmp_path / "report")
    rows = table_of(tmp_path / "report", "grid_train")
    assert (rows["1"]["EMANet, momentum=0.9"], rows["1"]["EMANet, momentum=0.5"]) == ("0.3", "0.4")


def test_emanet_with_damped_steps_is_a_column_of_its_own(tmp_path: Path) -> None:
    for T in (1, 2):
        for eta, miou in ((0.5, 0.6), (1.0, 0.5)):
            scored(tmp_path / "runs", T, eta, miou)
        for h, miou in ((0.0, 0.3), (0.5, 0.4)):
            overrides = ("model/head=emanet", f"model.head.iterations={T}", f"model.head.highway_scale={h}")
            path = write_run(tmp_path / "runs" / f"emanet_{T}_{h}", overrides, miou=miou)
            for T_eval in (1, 4):
                write_evaluation(path, T_eval, miou)
    write_report([tmp_path / "runs"], tmp_path / "report")
    heads = [head for head in table_of(tmp_path / "report", "grid_train")["1"] if head.startswith("EMANet")]
    assert len([head for head in heads if not head.endswith(("low", "high", "n"))]) == 2


def test_a_key_that_heads_share_splits_no_section(tmp_path: Path) -> None:
    """model.highway_scale is where hem takes its h from; the h that it took is what is compared."""
    for T in (1, 2):
        for h in (0.0, 0.5):
            overrides = (f"model.highway_scale={h}", f"model.head.iterations={T}")
            write_run(tmp_path / "runs" / f"T{T}_{h}", overrides, miou=0.5)
    write_report([tmp_path / "runs"], tmp_path / "report")
    assert {"η=0.5", "η=1"} <= table_of(tmp_path / "report", "grid_train")["1"].keys()
