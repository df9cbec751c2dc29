"""What experiments/study.py says of fake runs, against numbers worked out by hand or by SciPy itself."""

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import study
from _helpers.fake_runs import change, write_evaluation, write_run
from _helpers.study_pages import GAINS, PRIMARY, at, cells, page, write, write_primary
from omegaconf import OmegaConf
from scipy import stats
from study_finished import Finished, Setting, evenness, first_gain, step_ratio
from study_plan import exploratory, plan
from study_runs import members

from hemnet.config.compose import load
from hemnet.config.paths import EXPERIMENTS
from hemnet.errors import HemnetError
from hemnet.report.collect import read
from hemnet.report.record import Record
from hemnet.report.significance import NO_SPREAD
from hemnet.runs.identity import identity
from hemnet.runs.run import Run
from hemnet.runs.run_settings import settings

STOP = "pytorch_lightning.callbacks.EarlyStopping"
UNEVEN = (0.1, 0.2, 0.4, 0.3)  # (1, 2, 4) / 7 without the readout
EVEN = (0.2, 0.2, 0.2, 0.4)


def one(path: Path) -> Finished:
    return Finished(Run.open(path), read(path))


def test_the_primary_contrast_by_hand(tmp_path: Path) -> None:
    write_primary(tmp_path)
    # Standard error sqrt(4e-4 / 7 / 8) = 0.0026726; t of 97.5% at 7 degrees of freedom is 2.3646: 0.0063.
    found = page(tmp_path).partition("## Baselines")[0]
    expected = ["8", "8", "+0.0200", "+0.0137 to +0.0263", "<0.001", "<0.001", "supported"]
    assert cells(found, PRIMARY) == expected


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([-gain for gain in GAINS], "contradicted"),
        ([0.01, -0.01] * 4, "no difference shown"),
        ([0.0] * 8, NO_SPREAD),
        ([1e-8] * 8, NO_SPREAD),  # scores that differ by rounding
        ([0.01] * 8, NO_SPREAD),
        (GAINS[:7], "not yet: 7 of 8 pairs"),
    ],
)
def test_words_of_the_primary_contrast(tmp_path: Path, gains: Sequence[float], verdict: str) -> None:
    write_primary(tmp_path, gains)
    found = cells(page(tmp_path).partition("## Baselines")[0], PRIMARY)
    assert found[-1] == verdict
    if not verdict.startswith("not yet"):
        assert found[:2] == ["8", str(sum(gain > 0 for gain in gains))]  # pairs, and those above 0
    assert any(found[:-1]) != verdict.startswith("not yet")  # nothing is shown before its time


def test_what_has_run_is_counted_by_block(tmp_path: Path) -> None:
    write_primary(tmp_path)
    write(tmp_path, 0, head="emanet")
    write(tmp_path, 1, iterations=8, highway_scale=0.0)
    write(tmp_path, 3, iterations=8, highway_scale=0.0)  # a seed that the plan does not have
    text = page(tmp_path)
    assert cells(text, "4. better than EMANet")[-1] == "not yet: 1 of 8 pairs"
    assert cells(text, "no claim of the paper: better than a head without EM")[-1] == "not yet: 0 of 8 pairs"
    found = text.partition("## Blocks")[2].partition("\n## ")[0]
    assert cells(found, "Primary") == ["1", "1", "16", "16"]
    assert cells(found, "Baselines") == ["2", "0", "24", "9"]
    assert cells(found, "Depth") == ["6", "0", "18", "1"]
    assert cells(found, "all, each run once") == ["30", "1", "62", "18"]


def test_each_score_is_shown_by_its_seed(tmp_path: Path) -> None:
    write(tmp_path, 0, 0.5)
    write(tmp_path, 2, 0.6)
    write(tmp_path, 1, None)
    found = page(tmp_path).partition("## Scores")[2].partition("## ")[0]
    expected = ["2", "0.5500", "0.5000", "", "0.6000", *[""] * 5]
    assert cells(found, "h = 0.5, T = 3, Eq. 8") == expected
    assert "emanet" not in found  # no row without a score


def test_only_finished_runs_with_a_score_and_planned_seeds_count(tmp_path: Path) -> None:
    write_primary(tmp_path, GAINS[:6])
    write(tmp_path, 6, None)
    write(tmp_path, 6, 0.1, highway_scale=0.0)
    write(tmp_path, 8, 0.9, name="ninth")
    write(tmp_path, 0, 0.9, highway_scale=0.7)
    write_run(tmp_path / "begun", seed=7, status=None)
    text = page(tmp_path)
    assert cells(text.partition("## Baselines")[0], PRIMARY)[-1] == "not yet: 6 of 8 pairs"
    assert "- unfinished: begun" in text
    assert "- outside the plan: hem_highway_scale-0.7_s0_, hem_s8_ninth" in text
    assert "- revisions: 0123456789 (14 runs)" in text


def test_holm_within_the_baselines(tmp_path: Path) -> None:
    against = {"emanet": [0.01, 0.03, -0.007, 0.02] * 2, "fcn": [0.001, 0.006, -0.003, 0.001] * 2}
    for seed in range(8):
        write(tmp_path, seed, 0.5 + 0.01 * seed)
        for head, gains in against.items():
            write(tmp_path, seed, 0.5 + 0.01 * seed - gains[seed], head=head)
    p, q = (stats.ttest_1samp(gains, 0).pvalue for gains in against.values())
    assert p < 0.05 < 2 * p < q
    text = page(tmp_path)
    for head, raw, holm in (("emanet", p, 2 * p), ("fcn", q, q)):
        row = cells(text, f"h = 0.5, T = 3, Eq. 8 against `{head}`")
        assert row[-3:] == [f"{raw:.2g}", f"{holm:.2g}", "no difference shown"]


def test_a_contrast_that_lacks_pairs_still_counts_in_holm(tmp_path: Path) -> None:
    gains = (0.02, 0.025, 0.022)
    for seed, gain in enumerate(gains):
        write(tmp_path, seed, 0.4 + gain, iterations=8)
        write(tmp_path, seed, 0.4, iterations=8, highway_scale=0.0)
    text = page(tmp_path)
    row = cells(text, "h = 0.5, T = 8, Eq. 8 against h = 0, T = 8, Eq. 8")
    p = stats.ttest_1samp(gains, 0).pvalue
    assert row[-3:] == [f"{p:.2g}", f"{6 * p:.2g}", "supported (3 seeds: large differences only)"]
    few = "(3 seeds: large differences only)"
    beaten, best = "plain EM is beaten at many iterations", "2. the best η is intermediate"
    assert f"| {beaten} | h = 0.5 or 0.9 against 0, T = 8 | supported {few} |" in text
    assert f"| {beaten} | h = 0.5 or 0.9 against 0, T = 16 | not yet |" in text
    intermediate = f"| {best} | h = 0.5 against both 0 and 0.9, T = 8 |"
    assert f"{intermediate} not yet |" in text
    for seed, gain in enumerate((0.04, 0.03, 0.05)):
        write(tmp_path, seed, 0.4 + gain, iterations=8, highway_scale=0.9)
    assert f"{intermediate} not supported {few} |" in page(tmp_path)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_verdict_that_missing_pairs_may_turn_says_so(tmp_path: Path, sign: int) -> None:
    """At T = 8 all contrasts have their pairs, at T = 16 none has; Holm's correction is over all six."""
    depth = {0.0: (0.0, 0.0, 0.0), 0.5: (0.010, 0.014, 0.013), 0.9: (0.001, -0.003, 0.004)}
    for h, gains in depth.items():
        for seed, gain in enumerate(gains):
            write(tmp_path, seed, 0.4 + sign * gain, iterations=8, highway_scale=h)
    p = stats.ttest_1samp(depth[0.5], 0).pvalue
    assert 3 * p < 0.05 < 6 * p
    text, few = page(tmp_path), "(3 seeds: large differences only)"
    row = cells(text, "h = 0.5, T = 8, Eq. 8 against h = 0, T = 8, Eq. 8")
    assert row[-3:] == [f"{p:.2g}", f"{6 * p:.2g}", f"no difference shown so far {few}"]
    # Its p is above 0.05 before any correction.
    row = cells(text, "h = 0.9, T = 8, Eq. 8 against h = 0, T = 8, Eq. 8")
    assert row[-1] == f"no difference shown {few}"
    beaten = "| plain EM is beaten at many iterations | h = 0.5 or 0.9 against 0, T = 8 |"
    # A difference below 0 may turn out as contradicted, and not as supported.
    assert f"{beaten} not supported{' so far' if sign > 0 else ''} {few} |" in text
    for h in depth:
        for seed in range(3):
            write(tmp_path, seed, 0.4 + 0.02 * h * (seed - 1), iterations=16, highway_scale=h)
    assert " so far" not in page(tmp_path)


def test_iterations_of_evaluation(tmp_path: Path) -> None:
    for seed in range(8):
        path = write(tmp_path, seed, 0.9)  # validation in training is not what is compared
        for T, miou in ((3, 0.5), (6, 0.5 + GAINS[seed]), (16, 0.5 - GAINS[seed])):
            write_evaluation(path, T, miou)
    text = page(tmp_path)
    start = "h = 0.5, T = 3, Eq. 8: T_eval ="
    assert cells(text, f"{start} 6 against 3")[1:4] == ["8", "+0.0200", "+0.0137 to +0.0263"]
    assert cells(text, f"{start} 6 against 3")[-1] == "supported"
    assert cells(text, f"{start} 16 against 3")[1] == "0"
    assert cells(text, f"{start} 16 against 3")[3:] == ["-0.0263 to -0.0137", "<0.001", "<0.001", "supported"]
    assert cells(text, "h = 0, T = 3, Eq. 8: T_eval = 6 against 3")[-1] == "not yet: 0 of 8 pairs"
    assert "| 3. T_eval > T_train can help | T_eval = 6 against 3, h = 0.5 | supported |" in text
    assert "| 3. T_eval > T_train can help | T_eval = 6 against 3, h = 0 | not yet: 0 of 8 pairs |" in text
    assert "| 3. too large a T_eval harms | T_eval = 16 against 3, h = 0.5 | supported |" in text
    curve = cells(text.partition("## Evaluated")[2].partition("\n## ")[0], "h = 0.5, T = 3, Eq. 8")
    assert curve == ["8", "", "", "0.5000", "", "0.5200", "", "", "0.4800", ""]


def test_evenness_and_ratio_of_shares(tmp_path: Path) -> None:
    steps = [EVEN] * 9 + [(0.6, 0.0, 0.0, 0.4)] * 2 + [EVEN] * 7 + [UNEVEN] * 2
    run = one(write(tmp_path, 0, rows=[at("gradient/share", row, step) for step, row in enumerate(steps)]))
    # Entropy of (1, 2, 4) / 7: ln 7 - (2 ln 2 + 4 ln 4) / 7 = 0.95570.
    assert evenness(run) == pytest.approx(math.exp(0.95570) / 3, abs=1e-5)
    assert [evenness(run, "first"), evenness(run, "middle")] == pytest.approx([1, 1 / 3])
    assert step_ratio(run) == pytest.approx(0.5)  # 1 : 2 : 4


def test_the_gradient_by_iteration_and_tenth_of_training(tmp_path: Path) -> None:
    first, last = at("gradient/means", (0.1, 0.2, 0.4, 1.0)), at("gradient/means", (0.4, 0.2, 0.1, 1.0), 9)
    shares = [at("gradient/share", UNEVEN, step) for step in (0, 9)]
    write(tmp_path, 0, rows=[first | shares[0], last | shares[1]])
    write(tmp_path, 1, rows=[first, at("gradient/means", (0.1, 0.2, 0.9, 1.0), 9)])
    found = page(tmp_path).partition("## The gradient by iteration")[2].partition("\n## ")[0]
    rows = [line for line in found.splitlines() if line.startswith("| h = 0.5")]
    assert [row.count("|") for row in rows] == [9] * 3
    # Shares of one run, (1, 2, 4) / 7; the geometric mean of 0.1 and 0.9 is 0.3. Nothing is of the middle.
    assert rows[2] == "| h = 0.5, T = 3, Eq. 8 | 2 | 0.5714 |  | 0.5714 | 0.4000 |  | 0.3000 |"
    assert rows[0].split("|")[-4:-1] == [" 0.1000 ", "  ", " 0.2000 "]


def test_the_gain_of_the_first_iteration_the_readouts_share_and_the_cost(tmp_path: Path) -> None:
    cost = {"cost/parameters": 4125067.0, "cost/gflops": 2.8529}
    for seed, gain in enumerate((0.25, 0.75)):
        course = at("em/log_likelihood", (-10, -10 + 8 * gain, -3, -2))
        write(tmp_path, seed, rows=[at("gradient/share", (EVEN, UNEVEN)[seed]) | course | cost])
    setting, text = "h = 0.5, T = 3, Eq. 8", page(tmp_path)
    titles = ("Part of the likelihood's gain in the first iteration, at", "Shares of the", "Cost")
    parts = [text.partition(f"## {title}")[2].partition("\n## ")[0] for title in titles]
    gain, shares, costs = (cells(part, setting) for part in parts)
    assert gain[:2] == ["2", "0.5000"]
    assert shares[-2:] == ["0.5", "0.3500"]
    assert costs == ["4125067", "2.853"]


@pytest.mark.parametrize(
    ("entropies", "said"),
    [
        ([(3, 2, 1.5, 1)] * 2, "not yet: 2 of 16 runs: it does in 2 of 2"),
        ([(3, 2, 1.5, 1), (3, 2, 2.5, 1)], "not supported: it does in 1 of 2"),  # no other can mend that
    ],
)
def test_claim_5_waits_until_a_run_decides(tmp_path: Path, entropies: list, said: str) -> None:
    for seed, entropy in enumerate(entropies):
        write(tmp_path, seed, rows=[at("em/entropy", entropy)])
    assert cells(page(tmp_path), "5. attention sharpens with every iteration")[-1] == said


def test_claim_5_is_told_by_side_and_over_the_e_steps_alone(tmp_path: Path) -> None:
    for seed, entropy in enumerate([(3, 2, 1, 0), (3, 2, 1, 2), (3, 3, 2, 1)]):
        write(tmp_path, seed, rows=[at("em/entropy", entropy)])
    write(tmp_path, 0, rows=[at("em/entropy", (1, 2, 3, 4))], highway_scale=0.0)
    found = page(tmp_path).partition("Runs in which it falls")[2].partition("\n## ")[0]
    assert cells(found, "h = 0.5, T = 3, Eq. 8") == ["3", "1", "2"]
    assert cells(found, "h = 0, T = 3, Eq. 8") == ["1", "0", "0"]


def told(differences: Sequence[float]) -> list[str]:
    """What SciPy says of the differences of pairs, as the cells after their numbers."""
    mean, error = np.mean(differences), stats.sem(differences)
    low, high = stats.t.interval(0.95, len(differences) - 1, mean, error)
    return [f"{mean:+.4f}", f"{low:+.4f} to {high:+.4f}", "<0.001", "<0.001", "supported"]


def test_claim_1_and_claim_5_over_the_primary_runs(tmp_path: Path) -> None:
    def rows(share: Sequence[float], first: float, entropy: Sequence[float], norm: float) -> list[dict]:
        falling = at("em/log_likelihood", (0, -1, -2, -3))  # before training, which does not count
        norms = [{"step": step, "gradient/backbone/all": size} for step, size in enumerate((norm, norm, 8.0))]
        end = at("em/log_likelihood", (-10.0, first, -4.5 if first == -4 else -6, -2.0), 9)
        at_end = end | at("gradient/share", share, 9) | at("em/entropy", entropy, 9)
        return [at("gradient/share", share), falling, at_end, *norms]

    for seed, gain in enumerate(GAINS):
        share, first = ((0.1, 0.1, 0.2, 0.6), -7.9) if seed % 2 else (EVEN, -8.0)
        write(tmp_path, seed, 0.5 + gain, rows=rows(share, first, (3, 2, 1.5, 1), 2.0))
        write(tmp_path, seed, 0.5, rows=rows(UNEVEN, -4.0, (3, 2, 2, 1), 4.0), highway_scale=0.0)
    text = page(tmp_path)
    evened, gained = (
        cells(text.partition(title)[2].partition("\n## ")[0], PRIMARY)
        for title in ("## Evenness", "## Part of the likelihood's gain")
    )
    # exp(entropy) / 3 of (1, 1, 1), (1, 1, 2) and (1, 2, 4); the first gain over the whole.
    uneven = math.exp(0.955700) / 3
    assert evened == ["8", "8", *told([1 - uneven, 8**0.5 / 3 - uneven] * 4)]
    assert gained == ["8", "0", *told([2 / 8 - 6 / 8, 2.1 / 8 - 6 / 8] * 4)]
    claimed = text.partition("## The paper's claims")[2].partition("\n## ")[0]
    for claim, said in (
        ("a highway makes a better segmenter than plain EM", "supported"),
        ("1. at a smaller η the likelihood rises more slowly", "supported"),
        ("1. and the gradient spreads over the iterations", "supported"),
        ("4. better than EMANet", "not yet: 0 of 8 pairs"),
        ("5. attention sharpens with every iteration", "not supported: it does in 8 of 16"),
    ):
        assert cells(claimed, claim)[-1] == said
    assert "| h = 0, T = 3, Eq. 8 | 7 | 3.000 | 2.000 | 2.000 | 1.000 |" in text
    fell = text.partition("## Iterations")[2].partition("## Gradient")[0]
    assert cells(fell, "h = 0.5, T = 3, Eq. 8") == ["8", "0 of 24", "", "", "none"]
    assert cells(fell, "h = 0, T = 3, Eq. 8") == ["8", "8 of 24", "0.5", "0.5", "none"]
    backbone = text.partition("## Gradient of the backbone")[2]
    assert cells(backbone, "h = 0, T = 3, Eq. 8") == ["8", "4", "8"]


def test_a_run_whose_likelihood_ends_lower_is_left_out_and_named(tmp_path: Path) -> None:
    up, down = at("em/log_likelihood", (-9, -8, -7, -5)), at("em/log_likelihood", (-5, -4, -6, -7))
    write_primary(tmp_path, GAINS[:7], half=[up], none=[up])
    last = write(tmp_path, 7, rows=[down])
    write(tmp_path, 7, rows=[up], highway_scale=0.0)
    assert first_gain(one(tmp_path / "hem_s0_")) == 0.25
    assert math.isnan(first_gain(one(last)))
    text = page(tmp_path)
    gained = cells(text.partition("## Part of the likelihood's gain")[2].partition("\n## ")[0], PRIMARY)
    assert gained[0] == "7"
    assert gained[-1] == NO_SPREAD
    fell = text.partition("## Iterations")[2].partition("## Gradient")[0]
    assert cells(fell, "h = 0.5, T = 3, Eq. 8") == ["8", "2 of 24", "1.5", "2", "hem_s7_"]


def test_two_runs_of_one_setting_and_seed_are_refused(tmp_path: Path) -> None:
    first, second = write(tmp_path, 0), write(tmp_path, 0, name="again")
    with pytest.raises(HemnetError, match="leave out one") as caught:
        page(tmp_path)
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)
    assert page(first, tmp_path / "hem_s0_")  # the same run, named twice


@pytest.mark.parametrize(
    ("head", "keys", "named"),
    [
        ("hem", {"highway_scale": 0.0, "trainer__max_epochs": 7}, "trainer.max_epochs"),
        ("hem", {"momentum": 0.5}, "model.head.momentum"),
        ("emanet", {"channels": 12}, "model.head.channels"),
        ("fcn", {"dropout": 0.7}, "model.head.dropout"),
    ],
)
def test_runs_that_differ_in_more_are_refused(tmp_path: Path, head: str, keys: dict, named: str) -> None:
    first = write(tmp_path, 0)
    channels = Run.open(first).config.model.head.channels
    # Heads of other kinds at the recipe's width, unless told otherwise.
    second = write(tmp_path, 1, head=head, **{"channels": channels, **keys})
    with pytest.raises(HemnetError, match=named) as caught:
        page(tmp_path)
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)


def test_another_recipe_is_not_taken_for_the_studys(tmp_path: Path, capsys) -> None:
    write(tmp_path, 0)
    with pytest.raises(HemnetError, match=r"no finished run of camvid_lite_hem among 1 .*synthetic_hem"):
        study.main([str(tmp_path)])
    study.main([str(tmp_path), "--experiment", "synthetic_hem"])
    assert "## Primary" in capsys.readouterr().out


def test_the_recipe_of_another_head_is_a_run_of_the_study(tmp_path: Path, capsys) -> None:
    for name, h in (("camvid_lite_hem", 0.5), ("camvid_lite_em", 0.0)):
        write_run(
            tmp_path / name, [f"experiment={name}", "data.root=photos", f"model.head.highway_scale={h}"]
        )
    study.main([str(tmp_path)])
    found = cells(capsys.readouterr().out.partition("## Baselines")[0], PRIMARY)
    assert found[-1] == "not yet: 1 of 8 pairs"


DIFFERENT = [
    ("environment.json", "git", {"revision": "f" * 40, "modified": False}, "revision .f+ and 0123456789"),
    ("environment.json", "git", {"revision": "0123456789abcdef", "modified": True}, "with changes"),
    ("environment.json", "earlier_git", [{"revision": "f" * 40}], "revision .f+ and 0123456789 and 0+1"),
    ("environment.json", "cpu_threads", 8, "threads .8 and 1"),
    ("result.json", "device", "NVIDIA H100", "device .NVIDIA H100 and cpu"),
    ("config.yaml", "data.root", "/b/Half", "folder of the data .half and camvid"),
    ("result.json", "labelled_pixels", {"red": 6}, "labelled pixels of the validation split"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "key", "value", "named"), DIFFERENT)
def test_runs_of_other_circumstances_are_refused(
    tmp_path: Path, file: str, key: str, value: object, named: str
) -> None:
    runs = [write(tmp_path, 0), write(tmp_path, 0, highway_scale=0.0)]
    for run in runs:
        change(run / "config.yaml", "data.root", "/a/CamVid")
        change(run / "environment.json", "cpu_threads", 1)
        change(run / "result.json", "labelled_pixels", {"red": 5})
    assert cells(page(tmp_path).partition("## Baselines")[0], PRIMARY)[-1] == "not yet: 1 of 8 pairs"
    change(runs[0] / file, key, value)
    with pytest.raises(HemnetError, match=named) as caught:
        page(tmp_path)
    assert str(runs[0]) in str(caught.value)
    assert str(runs[1]) in str(caught.value)


def test_runs_whose_recipe_says_that_scores_tell_nothing_are_left_out(tmp_path: Path) -> None:
    write_primary(tmp_path)
    change(tmp_path / "hem_s0_" / "config.yaml", "conclusive", False)
    text = page(tmp_path)
    assert f"- {tmp_path}/hem_s0_: its recipe says that scores tell nothing" in text
    assert cells(text.partition("## Baselines")[0], PRIMARY)[-1] == "not yet: 7 of 8 pairs"


@pytest.mark.parametrize(
    ("file", "key", "value", "named"),
    [
        ("config.yaml", "callbacks.stop", {"_target_": STOP, "monitor": "val/miou"}, "callbacks.stop"),
        ("result.json", "processes", 4, "data.batch_size"),
        ("config.yaml", "finetune", "runs/a", "finetune"),
        ("config.yaml", "optim.optimizer.eps", 1e-6, "optim.optimizer.eps"),
        ("config.yaml", "trainer.precision", "bf16-mixed", "trainer.precision"),
    ],
)
def test_runs_that_the_report_keeps_apart_are_refused(
    tmp_path: Path, file: str, key: str, value: object, named: str
) -> None:
    write_primary(tmp_path)
    change(tmp_path / "hem_s0_" / file, key, value)
    with pytest.raises(HemnetError, match=rf"of family Primary, differ in {named}"):
        page(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.precision", 32),
        ("model.head.iterations_eval", 3),
        ("trainer.gradient_clip_algorithm", "norm"),
        ("trainer.accumulate_grad_batches", 1),
        ("model.head.variance", 8.0),  # the root of 64 channels
        ("optim.optimizer.eps", 1e-8),
        ("trainer.plugins", None),
    ],
)
def test_a_value_that_is_the_default_is_no_difference(tmp_path: Path, key: str, value: object) -> None:
    write_primary(tmp_path)
    change(tmp_path / "hem_s0_" / "config.yaml", key, value)
    assert cells(page(tmp_path).partition("## Baselines")[0], PRIMARY)[-1] == "supported"


def test_circumstances_are_compared_with_whatever_run_has_them(tmp_path: Path) -> None:
    runs = [write(tmp_path, seed, highway_scale=h) for h in (0.0, 0.5) for seed in (0, 1)]
    for run, threads in zip(runs, (None, 8, 8, None), strict=True):
        change(run / "environment.json", "cpu_threads", threads)
    assert page(tmp_path)
    change(runs[2] / "environment.json", "cpu_threads", 1)
    with pytest.raises(HemnetError) as caught:
        page(tmp_path)
    said = f"{runs[2]} and {runs[1]}, both of family Primary, differ in threads (1 and 8): leave out"
    assert said in str(caught.value)
    for run in runs[:2]:
        change(run / "environment.json", "git", None)
        change(run / "environment.json", "cpu_threads", None)
    assert page(tmp_path)  # what is not recorded is no difference


def test_a_refused_control_keeps_no_verdict_from_being_shown(tmp_path: Path) -> None:
    write_primary(tmp_path)
    control = write(tmp_path, 0, normalize="l2", variance=1.0)
    change(control / "environment.json", "cpu_threads", 8)
    change(tmp_path / "hem_s0_" / "environment.json", "cpu_threads", 1)
    text = page(tmp_path)
    assert "both of family Unit means, differ in threads" in text
    assert cells(text.partition("## Baselines")[0], PRIMARY)[-1] == "supported"


@pytest.mark.parametrize(
    ("file", "key", "value", "told"),
    [
        ("result.json", "debug", ["trainer.fast_dev_run"], "- debug: hem_s0_"),
        ("environment.json", "extended", [{"step": 990}], "- outside the plan: hem_s0_"),
        ("config.yaml", "data.seed", 100, "- outside the plan: hem_s0_"),
        ("config.yaml", "model.head.gradient", "one_step", "- outside the plan: hem_s0_"),
        ("config.yaml", "model.head.iterations_eval", 6, "- outside the plan: hem_s0_"),
        ("result.json", "status", "preempted", "- preempted: hem_s0_"),
        ("result.json", "metrics", None, "- revisions: 0123456789 (16 runs)"),
        ("result.json", "val/miou", math.nan, "- revisions: 0123456789 (16 runs)"),
        ("result.json", "val/miou", "0.7", "hem_s0_: unreadable: result.json: val/miou is '0.7'"),
        ("environment.json", "git", "abc", "hem_s0_: unreadable: environment.json: git is 'abc'"),
        ("config.yaml", "model", None, "hem_s0_: unreadable: "),
    ],
)
def test_a_run_that_is_no_run_of_the_plan_is_told_and_in_no_pair(
    tmp_path: Path, file: str, key: str, value: object, told: str
) -> None:
    write_primary(tmp_path)
    change(tmp_path / "hem_s0_" / file, key, value)
    text = page(tmp_path)
    assert told in text
    assert cells(text.partition("## Baselines")[0], PRIMARY)[-1] == "not yet: 7 of 8 pairs"


@pytest.mark.parametrize("content", ["cut", "text", "binary"])
def test_a_damaged_metrics_csv_is_told_and_gives_no_measure(tmp_path: Path, content: str) -> None:
    likelihood = [at("em/log_likelihood", (-10, -8, -7, -6.5))]
    write_primary(tmp_path, half=likelihood, none=likelihood)
    path = tmp_path / "hem_s0_" / "metrics.csv"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-4], "text": whole.replace(b"-8", b"x"), "binary": b"\xff\xfe"}[content])
    text = page(tmp_path)
    assert "hem_s0_: metrics.csv: " in text
    gained = cells(text.partition("## Part of the likelihood's gain")[2], PRIMARY)
    assert gained[-1] == "not yet: 7 of 8 pairs"
    assert cells(text.partition("## Baselines")[0], PRIMARY)[-1] == "supported"  # by its scores


def test_a_configuration_of_something_else_is_told(tmp_path: Path) -> None:
    write(tmp_path, 0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("a: 1\n")
    assert f"- {tmp_path / 'other'}: unreadable: " in page(tmp_path)


def test_an_empty_path_is_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    write(tmp_path, 0)
    monkeypatch.chdir(tmp_path)
    for words in ([""], [".", "--tables", ""]):
        with pytest.raises(SystemExit, match="2"):
            study.main(words)
        assert (
            f"argument {words[-2] if words[1:] else 'RUNS_FOLDER'}: a path is empty"
            in capsys.readouterr().err
        )


def test_emanet_and_controls_at_other_iterations_are_described(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path, seed)
        write_evaluation(write(tmp_path, seed, head="emanet"), 6, 0.5 + 0.1 * seed)
    write_evaluation(write(tmp_path, 0, normalize="l2", variance=1.0), 6, 0.4)
    text = page(tmp_path)
    curves = text.partition("## Evaluated")[2].partition("\n## ")[0]
    assert cells(curves, "`emanet`") == ["2", "", "", "", "", "0.5500", "", "", "", ""]
    unit = cells(curves, "h = 0.5, T = 3, dot, σ² = 1, unit means")
    assert unit == ["1", "", "", "", "", "0.4000", "", "", "", ""]
    assert "emanet" not in text.partition("## Shares")[2].partition("# Exploratory")[0]


def test_the_sweeps_are_the_plan(tmp_path: Path) -> None:
    """Every job of experiments/sweeps/study_*.yaml is a run of the plan, and no run is left to wish for."""
    heads = {
        head: load(["experiment=camvid_lite_hem", f"model/head={head}"]) for head in ("hem", "emanet", "fcn")
    }
    made: dict[Setting, set[int]] = {}
    runs = []
    for path in sorted((EXPERIMENTS / "sweeps").glob("study_*.yaml")):
        sweep = OmegaConf.to_container(OmegaConf.load(path))
        grid = {key: str(value).split(",") for key, value in sweep["hydra"]["sweeper"]["params"].items()}
        for values in product(*grid.values()):
            job = dict(zip(grid, values, strict=True))
            config = heads[job.pop("model/head", "hem")].copy()
            config.merge_with({key: node for key, node in sweep.items() if key not in ("defaults", "hydra")})
            for key, value in job.items():
                OmegaConf.update(config, key, float(value) if "." in value else int(value))
            place = tmp_path / path.stem / str(len(runs))
            own = settings(OmegaConf.to_container(config, resolve=True))
            run = Finished(Run(place, config), Record(place, identity(config), {}, own, "finished"))
            assert run.seed not in made.setdefault(run.setting, set())
            made[run.setting].add(run.seed)
            runs.append(run)
    wanted: dict[Setting, set[int]] = {}
    for block in [*plan(), *exploratory()]:
        members(block.title, block.settings, block.seeds, runs)  # which fit each other
        for setting in block.settings:
            wanted[setting] = wanted.get(setting, set()) | {*range(block.seeds)}
    assert made == wanted
