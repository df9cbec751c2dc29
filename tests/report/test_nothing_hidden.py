"""What a page says of how many: every test of a family is shown, every mean says of how many seeds it is."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from _helpers.fake_runs import change, plausible_rows, write_evaluation, write_run
from _helpers.report_page import page_of, table_of
from PIL import Image

from hemnet.report.chapters.miou_curves import against_depth
from hemnet.report.collect import collect
from hemnet.report.groups import sections
from hemnet.report.variants import variants
from hemnet.report.write import write_report

EMANET = "model/head=emanet"


def write(path: Path, T: int, h: float | list[float], seed: int, **more: object) -> Path:
    head = "em" if h == 0 else "hem"
    keys = {"model.head.iterations": T, "model.head.highway_scale": h, **more.pop("keys", {})}
    miou = 0.8 + 0.003 * seed + 0.01 * (h != 0) * (1 + 0.1 * seed)
    return write_run(path, (f"model/head={head}",), **{"seed": seed, "miou": miou, "keys": keys, **more})


def report(tmp_path: Path) -> Path:
    write_report([tmp_path / "runs"], tmp_path / "report")
    return tmp_path / "report"


def text_of(out: Path) -> str:
    return re.sub(r"\s+", " ", page_of(out).text)


@pytest.mark.parametrize("scales", [
    {1: (0.5,), 3: (0.7,), 8: (0.9,)},  # one h at each T
    {8: (0.9,), 3: (0.5, None)},  # plain EM at one T alone, where h is not the usual one
    {1: (0.5,), 3: (0.5, 0.7), 8: (0.9,)},
    {3: ([0.9, 0.5, 0.1], 0.5), 8: (0.9, -0.5)},
])  # fmt: skip
def test_every_test_against_plain_em_is_in_a_table(tmp_path: Path, scales: Mapping[int, tuple]) -> None:
    tests = set()
    for T, hs in scales.items():
        for h in [h for h in hs if h is not None]:
            for seed in range(3):
                write(tmp_path / f"runs/{T}_{h}_{seed}", T, h, seed)
        if None not in hs:
            for seed in range(3):
                write(tmp_path / f"runs/{T}_0_{seed}", T, 0.0, seed)
            tests |= {(str(T), "/".join(map(str, h)) if isinstance(h, list) else f"{h:g}") for h in hs}
    out = report(tmp_path)
    shown, ps = set(), set()
    for path in (out / "tables").glob("*_miou_vs_*.csv"):
        for row in table_of(out, path.stem):
            h = row.get("h") or next(re.findall(r"h=(.*)\)", name)[0] for name in row if "(h=" in name)
            if row["verdict"]:
                shown.add((row["T"], h))
                ps.add(float(row["p after Holm"]) / float(row["p"]))
    assert shown == tests
    assert round(max(ps)) == len(tests)  # each is in the family, and no other
    assert "nothing to compare" not in text_of(out)


def test_a_head_that_iterates_is_compared_with_hem_of_any_h_at_its_t(tmp_path: Path) -> None:
    for T, h in ((1, 0.5), (3, 0.5), (8, 0.9)):
        for seed in range(3):
            write(tmp_path / f"runs/hem{T}_{seed}", T, h, seed)
            own = (EMANET, f"model.head.iterations={T}")
            write_run(tmp_path / f"runs/emanet{T}_{seed}", own, seed=seed, miou=0.7 + 0.01 * seed)
    out = report(tmp_path)
    beside = {row["head"]: row["compared with"] for row in table_of(out, "synthetic_hem_heads")}
    assert beside["emanet, T=8"] == "hem, T=8, h=0.9"


def test_the_accuracies_of_heads_are_beside_their_comparison(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path / f"runs/hem{seed}", 3, 0.5, seed)
        run = write_run(tmp_path / f"runs/fcn{seed}", ("model/head=fcn",), seed=seed)
        change(run / "result.json", "val/pixel_accuracy", 0.5 + 0.1 * seed)
        change(run / "result.json", "val/mean_accuracy", 0.3)
    _, fcn = table_of(report(tmp_path), "synthetic_hem_heads_accuracy")
    assert (fcn["head"], float(fcn["mean accuracy"])) == ("fcn", 0.3)
    assert float(fcn["pixel accuracy"]) == pytest.approx(0.55)


def test_heads_beside_plain_em_alone_are_not_said_to_be_compared_with_hem(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / f"runs/em{seed}", 3, 0.0, seed)
        write_run(tmp_path / f"runs/fcn{seed}", ("model/head=fcn",), seed=seed, miou=0.7)
    chapter = text_of(report(tmp_path)).partition("Each head's mIoU")[2].partition("verdict")[0]
    assert "hem" not in chapter


def test_a_mean_says_of_how_many_seeds_it_is_in_the_page_and_in_the_files(tmp_path: Path) -> None:
    """Also where it has no interval: it is of one seed, or the number is the same in every run."""
    for T, n in ((1, 5), (3, 5), (8, 1)):
        for h in (0.0, 0.5):
            for seed in range(n):
                rows = [{"step": 9, "cost/seconds_per_step": T + 0.1 * seed + h, "cost/parameters": 4e5}]
                write(tmp_path / f"runs/{T}_{h}_{seed}", T, h, seed, rows=rows)
    out = report(tmp_path)
    for name, last in (("cost", 8), ("cost_ratio", 8)):
        table = table_of(out, f"synthetic_hem_{name}")
        counts = [value for row in table for key, value in row.items() if key.endswith(" n")]
        assert set(counts) == {"5", "1"}
        tex = (out / f"tables/synthetic_hem_{name}.tex").read_text()
        assert "n = 5 seeds unless a cell says otherwise" in tex
        assert tex.count("(n=1)") == counts.count("1")
        assert str(last) in tex


def test_a_seed_whose_norm_is_unknown_is_in_no_mean_and_named(tmp_path: Path) -> None:
    for h in (0.0, 0.5):
        for seed in range(3):
            rows = [dict(row) for row in plausible_rows(3, h, seed)]
            for row in rows:
                for key in row:
                    if key.startswith("gradient/backbone"):
                        bad = h == 0.5 and seed == 2 and key.endswith("layer4") and row["step"] > 1200
                        row[key] = np.nan if bad else 10.0**seed
            write(tmp_path / f"runs/{h}_{seed}", 3, h, seed, rows=rows)
    out = report(tmp_path)
    em, hem = table_of(out, "synthetic_hem_gradient_backbone")
    for row, n, mean in ((em, "3", 10.0), (hem, "2", 10**0.5)):
        assert row["n"] == n
        values = [float(value) for key, value in row.items() if key not in ("T", "head", "n")]
        assert values == pytest.approx([mean] * len(values), rel=1e-6)
    assert "Left out, since one is not known: seed 2 of hem (h=0.5) at T=3." in text_of(out)


def test_seeds_are_counted_however_often_they_ran(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / f"runs/{seed}", 3, 0.5, seed)
        write(tmp_path / f"runs/em{seed}", 3, 0.0, seed)
    for again in range(2):
        write(tmp_path / f"runs/failed{again}", 3, 0.5, 1, status="failed", error="OutOfMemory")
        write(tmp_path / f"runs/lost{again}", 3, 0.5, 7, status="failed", error="OutOfMemory")
    out = report(tmp_path)
    rows = table_of(out, "synthetic_hem_settings")
    assert {row["setting"]: row["not finished"] for row in rows} == {"em, T=3": "0", "hem, T=3, h=0.5": "1"}
    recipes = [row["recipe"] for row in table_of(out, "leaderboard") if row["setting"].startswith("hem")]
    assert recipes == ["synthetic_hem (1 seed did not finish)"]


def test_a_score_is_not_replaced_by_a_later_run_without_one(tmp_path: Path) -> None:
    write(tmp_path / "runs/first", 3, 0.5, 0)
    write(tmp_path / "runs/later", 3, 0.5, 0, miou=float("nan"), started="2026-02-01T12:00:00+0000")
    out = report(tmp_path)
    (row,) = table_of(out, "jobs")
    assert row["replaced by another run"] == "0"
    (row,) = table_of(out, "problems")
    assert (Path(row["run"]).name, row["status"]) == ("later", "finished")


def test_rows_that_share_a_recipe_are_told_apart(tmp_path: Path) -> None:
    """One of them has runs of two recipes."""
    for components in (8, 16):
        for seed in range(3):
            keys = {"model.head.num_components": components}
            if components == 16 and seed:
                keys["name"] = "another"
            write(tmp_path / f"runs/{components}_{seed}", 3, 0.5, seed, keys=keys)
    rows = table_of(report(tmp_path), "leaderboard")
    assert {(row["recipe"], row["setting"]) for row in rows} == {
        ("synthetic_hem", "hem, T=3, h=0.5, components=8"),
        ("another, synthetic_hem", "hem, T=3, h=0.5, components=16"),
    }


def test_emanet_is_drawn_at_the_t_at_which_it_ran(tmp_path: Path) -> None:
    """A level would be a claim on every T."""
    for T in (1, 3):
        for h in (0.0, 0.5):
            write(tmp_path / f"runs/{T}_{h}", T, h, 0)
    write_run(tmp_path / "runs/emanet", (EMANET, "model.head.iterations=3"), miou=0.81)
    write_run(tmp_path / "runs/fcn", ("model/head=fcn",), miou=0.805)
    (section,) = sections(collect([tmp_path / "runs"])[0])
    block = against_depth(section, variants(section)[0], "some")
    (axis,) = block.items[0].draw().axes
    drawn = {
        line.get_label(): len(line.get_xdata())
        for line in axis.get_lines()
        if not line.get_label().startswith("_")
    }
    drawn |= {bars.get_label(): len(bars[0].get_xdata()) for bars in axis.containers}
    assert drawn == {"em": 2, "hem (h=0.5)": 2, "EMANet": 1, "fcn 0.805": 2}


def test_one_run_of_the_usual_gradient_mode_hides_no_study_of_another(tmp_path: Path) -> None:
    phantom = {"model.head.gradient": "phantom"}
    for T in (3, 8):
        for h in (0.0, 0.5):
            for seed in range(3):
                write(tmp_path / f"runs/{T}_{h}_{seed}", T, h, seed, keys=phantom)
    write(tmp_path / "runs/unrolled", 1, 0.5, 0)
    rows = table_of(report(tmp_path), "synthetic_hem_miou_vs_iterations")
    assert [(row["T"], row["verdict"]) for row in rows] == [("3", "supported"), ("8", "supported")]


def test_pairs_of_another_gradient_mode_are_named(tmp_path: Path) -> None:
    for T, mode in ((1, "unrolled"), (8, "phantom")):
        for h in (0.0, 0.5):
            for seed in range(3):
                keys = {"model.head.gradient": mode}
                write(tmp_path / f"runs/{T}_{h}_{seed}", T, h, seed, keys=keys)
    text = text_of(report(tmp_path))
    assert "Not tested against em, since of another gradient mode: hem, T=8, h=0.5, phantom." in text
    assert "every h against plain EM at every T in gradient mode unrolled, in all variants" in text


def test_means_of_other_seeds_than_the_rows_say_so(tmp_path: Path) -> None:
    for seed in range(3):
        rows = [dict(row) for row in plausible_rows(3, 0.5, seed)]
        for row in rows:
            if seed == 2:
                row.pop("em/log_likelihood/03", None)
        path = write(tmp_path / f"runs/{seed}", 3, 0.5, seed, rows=rows)
        write(tmp_path / f"runs/em{seed}", 3, 0.0, seed)
        if seed == 1:
            change(path / "result.json", "seconds", None)
    write(tmp_path / "runs/unscored", 3, 0.5, 3, miou=float("nan"))
    out = report(tmp_path)
    row = next(row for row in table_of(out, "synthetic_hem_convergence") if row["head"] != "em")
    assert (row["first L n"], row["last L n"], row["gained n"]) == ("3", "2", "2")
    assert "(n=2)" in (out / "tables/synthetic_hem_convergence.tex").read_text()
    row = next(row for row in table_of(out, "leaderboard") if row["setting"].startswith("hem"))
    assert (row["seeds"], row["minutes n"], row["steps n"]) == ("3", "2", "3")


def test_hours_are_a_least_if_those_of_a_run_are_not_known(tmp_path: Path) -> None:
    write(tmp_path / "runs/0", 3, 0.5, 0)
    write_run(tmp_path / "runs/killed", seed=1, status=None)
    facts = {row["what"]: row["found"] for row in table_of(report(tmp_path), "overview")}
    assert facts["hours of training"] == "at least 0.10"


@pytest.mark.parametrize(("resume", "earlier", "minutes"), [
    ("null", None, 6), ("auto", None, 6), ("/runs/here", None, None), ("/runs/here", 60.0, 6),
])  # fmt: skip
def test_the_time_of_a_resumed_run_is_that_of_all_its_parts_or_unknown(
    tmp_path: Path, resume: str, earlier: float | None, minutes: int | None
) -> None:
    """Older versions recorded the last part alone, and no entry for the earlier ones."""
    environment = write(tmp_path / "runs/0", 3, 0.5, 0) / "environment.json"
    change(environment, "command", ["train.py", "seed=0", f"resume={resume}"])
    if earlier is not None:
        change(environment, "earlier_seconds", earlier)
    out = report(tmp_path)
    (row,) = table_of(out, "leaderboard")
    assert row["minutes"] == ("" if minutes is None else str(float(minutes)))
    facts = {row["what"]: row["found"] for row in table_of(out, "overview")}
    assert facts["hours of training"] == ("at least " if minutes is None else "") + "0.10"


def test_keys_that_follow_another_are_told_by_what_they_follow(tmp_path: Path) -> None:
    for name, key, value in (
        ("order", "data.seed", 1000), ("own", "data.seed", 0), ("later", "model.head.iterations_eval", 8),
    ):  # fmt: skip
        write(tmp_path / f"runs/{name}", 3, 0.5, 0, keys={key: value})
    told = {row["setting"] for row in table_of(report(tmp_path), "leaderboard")}
    assert told == {
        "hem, T=3, h=0.5, seed of the data=1000, T of evaluation=T",
        "hem, T=3, h=0.5, seed of the data=the run's, T of evaluation=T",
        "hem, T=3, h=0.5, seed of the data=the run's, T of evaluation=8",
    }


def test_an_emanet_of_other_settings_says_in_what_it_differs(tmp_path: Path) -> None:
    for T in (1, 3):
        for h in (0.0, 0.5):
            write(tmp_path / f"runs/{T}_{h}", T, h, 0, keys={"model.head.num_components": 8})
    for name, keys in (("other", {}), ("damped", {"model.head.highway_scale": 0.7})):
        keys |= {"model.head.iterations": 1, "model.head.num_components": 64}
        write_run(tmp_path / f"runs/{name}", (EMANET,), miou=0.7, keys=keys)
    (row, _) = table_of(report(tmp_path), "synthetic_hem_grid_train")
    named = {name for name in row if name.startswith("EMANet") and name.endswith("components=64")}
    assert named == {"EMANet, components=64", "EMANet, h=0.7, components=64"}


@pytest.mark.parametrize(
    "keys", [{"model.head.learn_scale": "shared"}, {"model.head.highway_scale": [0.1, 0.9]}]
)
def test_an_h_that_is_no_number_is_named_beside_charts_over_h(tmp_path: Path, keys: dict) -> None:
    for T in (2, 4):
        for seed in range(3):
            for h in (0.0, 0.5):
                write(tmp_path / f"runs/{T}_{h}_{seed}", T, h, seed)
            schedule = {k: v * (T // 2) if isinstance(v, list) else v for k, v in keys.items()}
            run = write(tmp_path / f"runs/{T}_further_{seed}", T, 0.5, seed, keys=schedule)
            for at in (2, 4):
                for each in (run, tmp_path / f"runs/{T}_0.0_{seed}", tmp_path / f"runs/{T}_0.5_{seed}"):
                    write_evaluation(each, at, 0.5 + 0.01 * at)
    out = report(tmp_path)
    assert "since h is not one number: hem, T=2" in text_of(out)  # the chart over h
    assert text_of(out).count("since h is not one number: h=") == 3  # T of training, T of evaluation
    for T in (2, 4):
        for row in table_of(out, f"synthetic_hem_grid_eval_T{T}"):
            score, *_ = (value for name, value in row.items() if name.startswith("h="))
            assert float(score) == pytest.approx(0.5 + 0.01 * int(row["T_eval"]))
    trained = table_of(out, "synthetic_hem_grid_train")
    assert all(any(value for name, value in row.items() if name.startswith("h=")) for row in trained)


def test_one_h_beside_a_learned_one_has_a_table_over_t_without_a_heat_map(tmp_path: Path) -> None:
    for T in (2, 4):
        for seed in range(3):
            for name, keys in (("0.5", {}), ("learned", {"model.head.learn_scale": "shared"})):
                run = write(tmp_path / f"runs/{T}_{name}_{seed}", T, 0.5, seed, keys=keys)
                for at in (2, 4):
                    write_evaluation(run, at, 0.5 + 0.01 * at)
    out = report(tmp_path)
    for name in ("grid_train", "grid_eval_T2", "grid_eval_T4"):
        for row in table_of(out, f"synthetic_hem_{name}"):
            assert row["η=0.5"]
            assert any(value for key, value in row.items() if key.startswith("h="))
    assert not list((out / "figures").glob("*grid*"))
    assert "the η of the highest mean" not in text_of(out)


def test_runs_without_a_score_are_no_subject_of_other_charts(tmp_path: Path) -> None:
    for seed in range(3):
        for h in (0.0, 0.5, 0.7):
            write(tmp_path / f"runs/2_{h}_{seed}", 2, h, seed, **({"miou": None} if h == 0.5 else {}))
            write(tmp_path / f"runs/4_{h}_{seed}", 4, h, seed, miou=None)
        write_run(tmp_path / f"runs/fcn{seed}", ("model/head=fcn",), seed=seed, miou=0.5 + 0.01 * seed**2)
    out = report(tmp_path)
    (heads,) = (path for path in (out / "tables").glob("*_heads.csv"))
    assert "hem, T=2, h=0.7" in heads.read_text()
    assert "hem, T=4" not in heads.read_text()
    (classes,) = (path for path in (out / "tables").glob("*_classes.csv"))
    assert classes.read_text().startswith('class,"em, T=2"')
    assert "Hatched: no run has a score." in text_of(out)


def test_damaged_pictures_take_no_place_and_are_listed(tmp_path: Path) -> None:
    heads = ("em", "hem", "fcn", "emanet", "pspnet", "nonlocal")
    for head in heads:
        run = write_run(tmp_path / f"runs/{head}", (f"model/head={head}",))
        (run / "figures").mkdir()
        place = run / "figures/predictions.png"
        if head == "em":
            place.write_text("")
        elif head == "hem":
            place.mkdir()
        elif head == "fcn":
            place.symlink_to("gone")
        else:
            Image.new("RGB", (8, 8)).save(place)
    out = report(tmp_path)
    assert "Show 3 images" in text_of(out)
    assert "for lack of room: predictions" not in text_of(out)
    problems = {Path(row["run"]).name: row["reason"] for row in table_of(out, "problems")}
    assert problems.keys() == {"em", "hem", "fcn"}
    assert all(reason.startswith("predictions.png: ") for reason in problems.values())


def test_no_line_of_the_page_ends_within_a_small_number(tmp_path: Path) -> None:
    for seed in range(4):
        for h in (0.0, 0.5):
            write(tmp_path / f"runs/{h}_{seed}", 2, h, seed, miou=0.5 + 0.1 * (h > 0) + 1e-6 * seed * (h > 0))
    page = (report(tmp_path) / "index.html").read_text()
    small = re.findall(r"\de-\d+", page)
    assert small
    assert len(re.findall(r'<span class="whole">[\d.]+e-\d+</span>', page)) == len(small)
