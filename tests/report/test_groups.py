"""Which runs are averaged, which are compared, and which files hold them."""

import json
from pathlib import Path

import pytest
from _helpers.fake_runs import change, write_evaluation, write_run
from _helpers.report_page import table_of

from hemnet.report.collect import collect
from hemnet.report.groups import sections
from hemnet.report.variants import variants
from hemnet.report.write import write_report

EM, HEM = ("model/head=em",), ("model/head=hem",)
OWN = ("experiment=folder_lite", "data.train.classes=[a,b]")
CATS, DOGS = {"a": 10, "b": 20}, {"a": 10, "b": 21}


def seeds_of(folder: Path) -> dict[tuple[str, str], list[int]]:
    made = sections(collect([folder])[0])
    return {(section.label, group.label): [*group.runs] for section in made for group in section.groups}


def test_data_sets_are_not_averaged_and_stay_apart_on_the_leaderboard(tmp_path: Path) -> None:
    for seed in range(3):
        for root, miou in (("/here/cats", 0.3), ("/here/dogs", 0.9)):
            write_run(tmp_path / f"runs/{root[6:]}{seed}", (*OWN, f"data.root={root}"), seed=seed, miou=miou)
    write_run(tmp_path / "runs/moved", (*OWN, "data.root=/there/Cats"), seed=3, miou=0.3)
    found = seeds_of(tmp_path)
    assert found == {
        ("data=cats", "hem, T=3, h=0.5"): [0, 1, 2, 3],
        ("data=dogs", "hem, T=3, h=0.5"): [0, 1, 2],
    }
    write_report([tmp_path / "runs"], tmp_path / "report")
    boards = [table_of(tmp_path / "report", name) for name in ("leaderboard_cats", "leaderboard_dogs")]
    assert [[float(row["mIoU"]) for row in board] for board in boards] == [[0.3], [0.9]]


def test_folders_of_one_name_with_other_images_are_other_data_sets(tmp_path: Path) -> None:
    for seed in range(4):
        for place, pixels in (("mine", CATS), ("yours", DOGS)):
            root = f"data.root=/{place}/photographs"
            write_run(tmp_path / f"{place}{seed}", (*OWN, root), seed=seed, pixels=pixels if seed else None)
    apart = seeds_of(tmp_path)
    assert sorted(apart.values()) == [[0], [1, 2, 3], [1, 2, 3]]
    assert len(set(apart)) == 3  # seed 0 is of an older version, so nobody knows of which data
    for seed in range(1, 4):
        (tmp_path / f"yours{seed}/result.json").unlink()
    assert [*seeds_of(tmp_path).values()] == [[0, 1, 2, 3]]


def test_other_images_are_told_apart_whatever_else_differs(tmp_path: Path) -> None:
    """A leaderboard ranks no scores on other images, also where no settings are the same."""
    for lr, place, pixels in ((0.1, "mine", CATS), (0.2, "yours", DOGS)):
        own = (*OWN, f"data.root=/{place}/photographs", f"optim.optimizer.lr={lr}")
        write_run(tmp_path / f"runs/{place}", own, pixels=pixels)
    write_report([tmp_path / "runs"], tmp_path / "report")
    found = [path.stem for path in (tmp_path / "report/tables").glob("leaderboard_*.csv")]
    assert [len(table_of(tmp_path / "report", name)) for name in found] == [1, 1]


def test_of_two_runs_the_later_counts_whatever_the_zones_of_their_clocks(tmp_path: Path) -> None:
    write_run(tmp_path / "a", HEM, miou=0.1, started="2026-03-01T12:00:00+0200")
    write_run(tmp_path / "b", HEM, miou=0.7, started="2026-03-01T11:00:00+0000")
    write_run(tmp_path / "c", HEM, miou=0.2, started="once")
    (section,) = sections(collect([tmp_path])[0])
    assert section.groups[0].by_seed() == {0: 0.7}


def test_an_option_added_later_makes_no_difference_where_it_is_null(tmp_path: Path) -> None:
    write_run(tmp_path / "new", HEM, seed=0, keys={"finetune": None, "data.train_transform.longest": None})
    older = write_run(tmp_path / "old", HEM, seed=1) / "config.yaml"
    kept = [
        line for line in older.read_text().splitlines() if "finetune:" not in line and "longest:" not in line
    ]
    older.write_text("\n".join(line for line in kept if "float32_precision:" not in line))
    assert [*seeds_of(tmp_path).values()] == [[0, 1]]


def test_a_learned_highway_scale_is_compared_with_others(tmp_path: Path) -> None:
    learned = [("shared", 0.5), ("per_iteration", 0.5), ("shared", 0.1)]
    for i, (kind, start) in enumerate(learned):
        keys = [f"model.head.learn_scale={kind}", f"model.head.highway_scale={start}"]
        write_run(tmp_path / f"runs/{i}", (*HEM, *keys), miou=0.7)
    write_run(tmp_path / "runs/em", EM, miou=0.4)
    write_run(tmp_path / "runs/hem", HEM, miou=0.5)
    (section,) = sections(collect([tmp_path])[0])
    assert {group.label for group in section.groups} == {
        "em, T=3", "hem, T=3, h=0.5", "hem, T=3, h=learned from 0.5", "hem, T=3, h=learned from 0.1",
        "hem, T=3, h=learned per iteration from 0.5",
    }  # fmt: skip
    assert len(variants(section)) == 1
    write_report([tmp_path / "runs"], tmp_path / "report")
    rows = table_of(tmp_path / "report", "synthetic_hem_miou_vs_scale")
    assert sum("learned" in str(row) for row in rows) == 3


@pytest.mark.parametrize("mode", ["Unrolled,keep:0.", "Implicit,tolerance:1e-"])
def test_options_of_the_usual_gradient_mode_make_variants(tmp_path: Path, mode: str) -> None:
    for digit in (1, 2):
        for head, scale in ((EM, 0), (HEM, 1)):
            gradient = f"model.head.gradient={{_target_:hemnet.em.{mode}{digit}}}"
            run = write_run(tmp_path / f"runs/{digit}{scale}", (*head, gradient), miou=0.5 + digit / 10)
            for T in (1, 3):
                write_evaluation(run, T, 0.5)
    write_run(tmp_path / "runs/other", (*HEM, "model.head.gradient=detached"), miou=0.1)
    (section,) = sections(collect([tmp_path])[0])
    assert sorted(len(variant.groups) for variant in variants(section)) == [2, 3]
    write_report([tmp_path / "runs"], tmp_path / "report")
    scores = {
        row["mIoU of em"] if "mIoU of em" in row else next(v for k, v in row.items() if k.startswith("em"))
        for path in (tmp_path / "report/tables").glob("synthetic_hem_??????_miou_vs_iterations.csv")
        for row in table_of(tmp_path / "report", path.stem)
    }
    assert {float(score) for score in scores} == {0.6, 0.7}


def _unrolled(keep: float) -> dict[str, object]:
    return {"_target_": "hemnet.em.Unrolled", "keep": keep}


def _implicit(tolerance: float) -> dict[str, object]:
    return {"_target_": "hemnet.em.Implicit", "tolerance": tolerance}


def write_modes(folder: Path, modes: list[tuple[int, object]]) -> None:
    """Write em and hem for each T and gradient mode, with the same score in both."""
    for i, (T, mode) in enumerate(modes):
        for head in (EM, HEM):
            keys = {"model.head.iterations": T, "model.head.gradient": mode}
            write_run(folder / f"{head[0][11:]}{i}", head, miou=0.1 + i / 10, keys=keys)


def test_a_part_of_a_gradient_mode_has_no_other_mode_as_its_usual_one(tmp_path: Path) -> None:
    parted = [(3, _unrolled(0.5)), (8, _unrolled(1.0)), (3, _implicit(1e-4)), (3, _implicit(1e-6))]
    write_modes(tmp_path / "runs", parted)
    (section,) = sections(collect([tmp_path])[0])
    found = {variant.label: (variant.mode, len(variant.usual)) for variant in variants(section)}
    assert found == {"keep=0.5": ("unrolled", 2), "keep=1": ("unrolled", 2)}
    write_report([tmp_path / "runs"], tmp_path / "report")  # which drew a chart of two settings at one place


def test_a_variant_is_called_by_the_options_of_what_it_shows(tmp_path: Path) -> None:
    loose, strict = _implicit(1e-4), _implicit(1e-6)
    write_modes(
        tmp_path, [(1, loose), (3, loose), (1, "unrolled"), (3, "unrolled"), (8, strict), (16, strict)]
    )
    (section,) = sections(collect([tmp_path])[0])
    for variant in variants(section):
        assert variant.mode == "implicit"
        tolerance = {group.rest["model.head.gradient.tolerance"] for group in variant.usual}
        assert [variant.label] == [f"tolerance={value}" for value in tolerance]


def test_a_highway_is_paired_with_plain_em_of_the_same_options(tmp_path: Path) -> None:
    for head, mode in ((EM, _implicit(1e-4)), (HEM, _implicit(1e-6)), (EM, "unrolled")):
        write_run(tmp_path / f"{head[0][11:]}{mode}"[:20], head, keys={"model.head.gradient": mode})
    (section,) = sections(collect([tmp_path])[0])
    assert all(variant.pairs == [] for variant in variants(section))


def test_runs_are_averaged_by_the_weights_that_they_start_from(tmp_path: Path) -> None:
    def write(name: str, seed: int, source: str, weights: str | None) -> None:
        run = write_run(tmp_path / name, HEM, seed=seed, keys={"finetune": source})
        if weights:
            change(run / "result.json", "finetune", {"from": source, "sha256": weights * 64})

    write("here", 0, "/here/pre", "a")
    write("there", 1, "/there/pre", "a")  # the same file, copied
    write("retrained", 2, "/here/pre", "b")  # the same place, another file
    write("old", 3, "/here/pre", None)
    killed = write_run(tmp_path / "killed", HEM, seed=4, status=None, keys={"finetune": "/elsewhere/pre"})
    (killed / "finetune.json").write_text(json.dumps({"sha256": "a" * 64}))
    made = sections(collect([tmp_path])[0])
    assert {tuple(group.runs): group.lost_seeds for section in made for group in section.groups} == {
        (0, 1): [4], (2,): [], (3,): []
    }  # fmt: skip
    assert any(f"fine-tuned from=weights {'a' * 12}" in section.label for section in made)


def test_a_setting_that_two_recipes_have_is_one_and_is_compared_with_the_others(tmp_path: Path) -> None:
    for seed in range(4):
        name = "x_em" if seed == 0 else "x_hem"
        write_run(tmp_path / f"runs/em{seed}", (*EM, f"name={name}"), seed=seed, miou=0.4 + 0.1 * seed)
        write_run(tmp_path / f"runs/hem{seed}", (*HEM, "name=x_hem"), seed=seed, miou=0.5 + 0.1 * seed)
    write_run(tmp_path / "runs/short", (*EM, "name=x_hem", "conclusive=false"), seed=9, miou=0.9)
    write_run(tmp_path / "runs/other", (*EM, "name=x_hem", "optim.power=2"), seed=9, miou=0.8)
    write_report([tmp_path / "runs"], tmp_path / "report")
    rows = [(row["recipe"], row["seeds"]) for row in table_of(tmp_path / "report", "leaderboard")]
    whole = [("x_hem", "4"), ("x_em, x_hem", "4")]
    assert sorted(rows) == sorted([*whole, ("x_hem (not conclusive)", "1"), ("x_hem", "1")])
    (path,) = (tmp_path / "report/tables").glob("x_hem_*miou_vs_iterations.csv")
    [compared] = table_of(tmp_path / "report", path.stem)
    assert float(compared["difference"]) == pytest.approx(0.1)
    assert ", with x_em" in (tmp_path / "report" / "index.html").read_text("utf-8")


def test_runs_of_several_revisions_are_told(tmp_path: Path) -> None:
    for name, head in (("em", EM), ("hem", HEM)):
        write_run(tmp_path / f"runs/{name}", head)
    write_report([tmp_path / "runs"], tmp_path / "report")
    assert "several revisions" not in (tmp_path / "report" / "index.html").read_text("utf-8")
    path = tmp_path / "runs/em/environment.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"git": {"revision": "f" * 40, "modified": True}}))
    write_report([tmp_path / "runs"], tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    told = " ".join(page.split()).partition("several revisions of the code: ")[2].partition(".")[0]
    assert sorted(told.split("; ")) == ["0123456789 (1)", "ffffffffff, with changes (1)"]


def test_runs_of_processors_with_several_instruction_sets_are_told(tmp_path: Path) -> None:
    def told() -> str:
        write_report([tmp_path / "runs"], tmp_path / "report")
        page = " ".join((tmp_path / "report" / "index.html").read_text("utf-8").split())
        return page.partition("several instruction sets: ")[2].partition(".")[0]

    for h in (0.1, 0.5, 0.9):
        write_run(tmp_path / f"runs/{h}", HEM, keys={"model.head.highway_scale": h})
    change(tmp_path / "runs/0.1/environment.json", "cpu_instructions", "AVX2")
    assert told() == ""  # of the others it is not known
    change(tmp_path / "runs/0.5/environment.json", "cpu_instructions", "AVX512")
    assert sorted(told().split("; ")) == ["AVX2 (1)", "AVX512 (1)", "not recorded (1)"]
    change(tmp_path / "runs/0.5/result.json", "device", "NVIDIA H100")  # whose processor adds nothing
    assert told() == ""


def test_recipes_and_variants_with_one_name_have_files_of_their_own(tmp_path: Path) -> None:
    for head, score in ((EM, 0.1), (HEM, 0.2)):
        for name, variance, of in (("x", 1.0, 0.0), ("x", 2.0, 0.1), ("x_v1", 1.0, 0.6)):
            changed = (*head, f"name={name}", f"model.head.variance={variance}", f"optim.power={len(name)}")
            write_run(tmp_path / f"runs/{name}{variance}{score}", changed, miou=score + of)
    write_report([tmp_path / "runs"], tmp_path / "report")
    tables = sorted((tmp_path / "report/tables").glob("*_miou_vs_iterations.csv"))
    scores = [next(v for k, v in table_of(tmp_path / "report", path.stem)[0].items() if k.startswith("em"))
              for path in tables]  # fmt: skip
    assert sorted(map(float, scores)) == pytest.approx([0.1, 0.2, 0.7])
