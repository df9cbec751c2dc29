"""Where runs recorded too little, or differ in too much, experiments/study.py decides nothing."""

from pathlib import Path

import pytest
from _helpers.fake_runs import change
from _helpers.study_pages import GAINS, PRIMARY, at, cells, page, write, write_primary

from hemnet.errors import HemnetError

UP, DOWN = (-9, -8, -7, -5), (-5, -4, -6, -7)
GAIN = "## Part of the likelihood's gain"


def test_the_end_of_training_is_its_last_step(tmp_path: Path) -> None:
    # Of a run that diverges, what is not finite is not logged: what it logged before is not its end.
    early = [at("em/log_likelihood", UP) | at("em/entropy", (3, 2, 1, 0)), {"step": 9, "val/miou": 0.5}]
    write_primary(tmp_path, half=early, none=early)
    text = page(tmp_path)
    for claim in (
        "1. at a smaller η the likelihood rises more slowly",
        "5. attention sharpens with every iteration",
    ):
        assert cells(text, claim)[-1].startswith("not yet: 0 of")
    write_primary(tmp_path / "whole", half=[*early, early[0] | {"step": 9}], none=[early[0] | {"step": 9}])
    assert cells(page(tmp_path / "whole"), claim)[-1] == "supported: it does in 16 of 16"


@pytest.mark.parametrize(
    ("whole", "words"),
    [
        (2, "undefined in too many runs"),
        (3, "supported (3 seeds: large differences only)"),
        (4, "supported"),
    ],
)
def test_a_verdict_is_of_the_pairs_in_which_a_measure_is_defined(
    tmp_path: Path, whole: int, words: str
) -> None:
    for seed, gain in enumerate(GAINS):
        course = (-9, -8 + gain, -7, -5) if seed < whole else DOWN
        write(tmp_path, seed, rows=[at("em/log_likelihood", course)])
        write(tmp_path, seed, rows=[at("em/log_likelihood", (-9, -6, -5.5, -5))], highway_scale=0.0)
    found = cells(page(tmp_path).partition(GAIN)[2].partition("\n## ")[0], PRIMARY)
    assert found[-1] == words
    assert found[0] == ("" if whole == 2 else str(whole))


@pytest.mark.parametrize("first", ["fcn", "emanet", "hem"])
def test_runs_of_one_head_are_compared_whatever_head_comes_first(tmp_path: Path, first: str) -> None:
    runs = {head: [write(tmp_path, seed, head=head) for seed in (0, 1)] for head in ("fcn", "emanet", "hem")}
    for run in runs[first]:
        run.rename(tmp_path / f"a_{run.name}")
    page(tmp_path)
    for head in {"emanet", "hem"} - {first}:
        change(runs[head][1] / "config.yaml", "model.head.momentum", 0.5)
        with pytest.raises(HemnetError, match=r"differ in model\.head\.momentum"):
            page(tmp_path)
        change(runs[head][1] / "config.yaml", "model.head.momentum", 0.9)


def test_a_cost_is_of_whichever_run_recorded_it(tmp_path: Path) -> None:
    cost = {"step": 9, "val/miou": 0.5, "cost/parameters": 4125067.0, "cost/gflops": 2.8529}
    damaged, _ = (write(tmp_path, seed, rows=[cost]) for seed in (0, 1))
    (damaged / "metrics.csv").write_text("step\nnone\n")
    found = page(tmp_path).partition("## Cost")[2].partition("\n## ")[0]
    assert cells(found, "h = 0.5, T = 3, Eq. 8") == ["4125067", "2.853"]


def test_the_instruction_sets_of_the_runs_are_told(tmp_path: Path) -> None:
    write_primary(tmp_path)
    assert "instruction sets" not in page(tmp_path)
    change(tmp_path / "hem_s0_" / "environment.json", "cpu_instructions", "AVX2")
    told = page(tmp_path).partition("- instruction sets: ")[2].partition("\n")[0]
    assert sorted(told.split(", ")) == ["AVX2 (1 runs)", "not recorded (15 runs)"]
