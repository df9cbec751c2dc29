"""The benchmark: its arithmetic, its meters, its refusal, and the command as a user calls it."""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hemnet.bench import __main__ as command
from hemnet.bench import bench_em, contenders, timing
from hemnet.bench.agreement import QUANTITIES, check, limits, truth
from hemnet.bench.arguments import BenchError, Disagreement
from hemnet.bench.contenders import LeftOut, enlist
from hemnet.bench.problem import Shape, draw
from hemnet.bench.results import Absence, EngineFindings, EngineTimes, HighwayPair, LayerTimes
from hemnet.bench.roofline import Work, forward_backward_work, forward_work
from hemnet.bench.tables import print_findings
from hemnet.bench.timing import Budget, Ratio, interleave, paired, peak_extra_memory
from hemnet.bench.verdicts import verdicts
from hemnet.em.engine.passes import TorchPasses

CPU = torch.device("cpu")
SMALL = Shape(1, 50, 8, 4)
TINY = ["em", "--device", "cpu", "--shape", *map(str, SMALL), "--seconds", "0.2", "--repeats", "6",
        "--parts", "engines"]  # fmt: skip


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    command._entry()


def result(contender: str, depth: int, times: list[float], peak: int, dtype: str = "float32") -> EngineTimes:
    return EngineTimes(dtype, depth, contender, times, times, {}, peak, 0.25, 0.25, None)


def report(*results: EngineTimes, pairs: tuple[HighwayPair, ...] = (), device: str = "cpu") -> EngineFindings:
    environment = {"device": f"{device} (model)", "cpu_threads": 2}
    return EngineFindings(environment, device, {"B": 1}, 1e9, {}, list(results), list(pairs))


def judged(of: EngineFindings) -> dict[str, str]:
    return {verdict.bar.split(", ", 1)[-1]: verdict.verdict for verdict in verdicts(of)}


# The command.


def test_the_command_reports_and_writes_everything(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    engines = ["recompute", "triton", "checkpointed"]
    arguments = [*TINY, "--iterations", "3", "1", "--engines", *engines, "--json"]
    # With Triton's interpreter, which other tests switch on, the engine would run, if slowly.
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command_line = [sys.executable, "-m", "hemnet.bench", *arguments, str(file)]
    done = subprocess.run(command_line, capture_output=True, text=True, env=plain)
    assert done.returncode == 0, done.stderr
    assert max(len(line) for line in done.stdout.splitlines() if line.startswith("|")) < 180
    assert "…" not in done.stdout  # nothing was cut off in a pipe
    for text in ("B1 N50 C8 K4", "| checkpointed |", "left out: triton, float32, T=1, 3:", "no CUDA device"):
        assert text in done.stdout

    content = json.loads(file.read_text())
    assert content["environment"]["packages"]["torch"] == str(torch.__version__)
    assert content["shape"] == {"B": 1, "N": 50, "C": 8, "K": 4}
    assert content["bandwidth"] > 1e8
    assert content["rates"]["float32"] > 1e8
    measured = [(row["contender"], row["iterations"]) for row in content["results"]]
    assert measured == [(name, t) for t in (1, 3) for name in ("reference", "recompute", "checkpointed")]
    for row in content["results"]:
        assert all(1 <= len(row[times]) <= 6 for times in ("forward", "forward_backward"))
        assert row["peak_bytes"] > 2 * 50 * 8 * 4  # at least y and dx
        assert set(row["errors"]) == set(QUANTITIES)
    assert [(pair["engine"], pair["iterations"]) for pair in content["pairs"]] == [
        ("recompute", 1), ("recompute", 3)
    ]  # fmt: skip
    assert len(content["verdicts"]) == 8


@pytest.mark.slow
def test_the_compiled_reference_takes_part_up_to_a_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    options = ["--iterations", "1", "2", "--engines", "compiled", "--compile-up-to", "1", "--json", str(file)]
    call([*TINY, *options], monkeypatch)
    content = json.loads(file.read_text())
    compiled = [row for row in content["results"] if row["contender"] == "compiled"]
    assert [row["iterations"] for row in compiled] == [1]
    assert compiled[0]["compile_seconds"] > 0
    assert "left out: compiled, float32, T=2: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["em", "--iterations", "0"], "give a whole number, 1 or more"),
        (["em", "--shape", "1", "50", "8"], "expected 4 arguments"),
        (["em", "--seconds", "-1"], "give a number above 0"),
        (["em", "--engines", "fast"], "choose from"),
        (["em", "--json", "/no/such/folder/file.json"], "make it first"),
        ([], "subject"),
    ],
)
def test_a_wrong_option_exits_with_2_and_the_remedy(
    arguments: list[str],
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as error:
        command.run_entry(lambda: call(arguments, monkeypatch))
    assert error.value.code == 2
    assert remedy in capsys.readouterr().err


def test_cuda_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BenchError, match="use --device cpu"):
        call(["em", "--device", "cuda"], monkeypatch)


# No figure without agreement.


def test_a_wrong_gradient_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = TorchPasses.features_vjp
    monkeypatch.setattr(TorchPasses, "features_vjp", lambda self: right(self) * 1.001)
    file = tmp_path / "bench.json"
    with pytest.raises(SystemExit) as error:
        call([*TINY, "--iterations", "1", "3", "--engines", "recompute", "--json", str(file)], monkeypatch)
    assert error.value.code == 1
    printed = capsys.readouterr()
    for part in ("recompute", "T=1", "gradient to x", "1.0e-03", "limit 2.0e-05"):
        assert part in printed.err
    assert printed.out == ""
    assert not file.exists()


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_a_wrong_pass_without_a_graph_is_refused(factor: float) -> None:
    problem = draw(SMALL, torch.float32, CPU)
    right = enlist("recompute", problem, 3)
    wrong = replace(
        right,
        reconstruction=lambda x, mu: right.reconstruction(x, mu) * (1 if torch.is_grad_enabled() else factor),
    )
    true = truth(problem, 3, 0.5)
    check(right, problem, 3, true)
    with pytest.raises(Disagreement, match="reconstruction is off by"):
        check(wrong, problem, 3, true)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["reference", "recompute", "checkpointed"])
@pytest.mark.parametrize("highway_scale", [0.5, 0.0])
def test_contenders_agree_at_depth(name: str, dtype: torch.dtype, highway_scale: float) -> None:
    problem = draw(Shape(2, 300, 64, 8), dtype, CPU)
    if name == "checkpointed" and highway_scale == 0:
        pytest.skip("only timed with the highway")
    contender = enlist(name, problem, 16, highway_scale=highway_scale)
    errors = check(contender, problem, 16, truth(problem, 16, highway_scale))
    assert errors["gradient to mu"] > 0


def test_the_gradient_to_compare_does_not_vanish() -> None:
    problem = draw(Shape(1, 1000, 256, 16), torch.float32, CPU)
    *_, dmu_BKC = truth(problem, 64, 0.0)
    assert dmu_BKC.norm() > 1e-3 * problem.dy_BNC.norm()


def test_limits_grow_with_the_gradient_s_path_only() -> None:
    assert limits(torch.float32, 3) == pytest.approx(dict(zip(QUANTITIES, (1e-5, 4e-5, 4e-5), strict=True)))
    assert limits(torch.bfloat16, 64) == dict(zip(QUANTITIES, (5e-3, 2e-2, 2e-2), strict=True))


def test_an_engine_that_cannot_run_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("too old")

    monkeypatch.setattr(contenders, "choose_engine", refuse)
    with pytest.raises(LeftOut, match="too old"):
        enlist("triton", draw(SMALL, torch.float32, CPU), 1)


# The meters.


def test_every_round_starts_with_another_run() -> None:
    order: list[str] = []
    runs = [lambda name=name: order.append(name) for name in "abc"]
    times = interleave(runs, CPU, Budget(seconds=60, repeats=4))
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"  # the first is not counted
    assert [len(of_one) for of_one in times] == [4, 4, 4]


def test_the_budget_ends_the_rounds() -> None:
    budget = Budget(seconds=2, repeats=50)
    assert budget.allows(0, 1e9)
    assert budget.allows(4, 7.9)
    assert not budget.allows(4, 8.1)
    assert budget.allows(49, 1.9)
    assert not budget.allows(5, 2.1)
    assert not budget.allows(50, 0.1)


def test_ratios_are_paired_within_rounds() -> None:
    # The machine was ten times slower in the second round: the ratio does not see it.
    assert paired([2.0, 20.0, 4.0], [1.0, 10.0, 2.0]) == Ratio(2.0, 2.0, 2.0)
    assert paired([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5) == Ratio(3.0, 2.0, 4.0)
    assert str(paired([3.0], [2.0])) == "1.500 [1.500, 1.500]"


def test_the_memory_meter_sees_the_peak() -> None:
    def ten_then_five() -> torch.Tensor:
        large = torch.ones(10 * 2**18)
        del large
        return torch.ones(5 * 2**18)

    held = torch.ones(2**20)  # was there before: not counted
    assert peak_extra_memory(ten_then_five, CPU) == 10 * 2**20
    twice = peak_extra_memory(lambda: held.add(1).add(1), CPU)
    assert 0 <= twice - 2 * held.nbytes < 100  # the ones are tensors too
    assert peak_extra_memory(lambda: None, CPU) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_meters_on_cuda() -> None:
    device = torch.device("cuda")
    assert peak_extra_memory(lambda: torch.ones(2**22, device=device), device) == 2**24
    assert timing.seconds(lambda: torch.ones(2**22, device=device), device) > 0


# The arithmetic.


def test_the_roofline_by_hand() -> None:
    shape = Shape(2, 3, 5, 7)  # BNC = 30, BNCK = 210
    assert forward_work(shape, 4, 2) == Work(bytes=6 * 30 * 2, flops=18 * 210)
    assert forward_backward_work(shape, 4, 2) == Work(bytes=12 * 30 * 2, flops=50 * 210)
    assert Work(bytes=100, flops=30).bound(bandwidth=10, rate=10) == 10
    assert Work(bytes=100, flops=300).bound(bandwidth=10, rate=10) == 30


def test_targets_that_are_met_and_not() -> None:
    base = [1.0] * 5
    found = judged(
        report(
            *(result("reference", t, base, 100 * t) for t in (1, 3, 16)),
            result("recompute", 1, base, 100),
            result("recompute", 3, [1.1] * 5, 100),
            result("recompute", 16, [0.8] * 5, 116),
            pairs=(HighwayPair("float32", 1, "recompute", [1.02] * 5, base, 101, 100),
                   HighwayPair("float32", 3, "recompute", [1.03] * 5, base, 100, 100)),
        )
    )  # fmt: skip
    assert found == {
        "largest over smallest T, <= 1.15": "not met",
        "recompute over reference, T=16, <= 0.85": "met",
        "recompute over reference, T=3, <= 1.0": "not met",
        "recompute over reference, any T, <= 1.0": "not met",
        "time of recompute, any T, <= 1.02": "not met",
        "memory of recompute, any T, <= 1.01": "met",
        "T=8, times faster than reference, >= 4": "not measured: no CUDA device",
        "T=8, over the roofline bound, <= 3": "not measured: no CUDA device",
    }


def test_the_layer_is_timed_in_both_layouts_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    options = ["--iterations", "1", "3", "8", "--engines", "recompute", "--json", str(file)]
    call([*TINY[:-1], "layer", *options], monkeypatch)
    content = json.loads(file.read_text())
    available = torch.get_num_threads()
    threads = [1, 2][:available]
    assert [(times["threads"], times["iterations"], times["layout"]) for times in content["layer"]] == [
        (count, depth, layout) for count in threads for depth in (1, 3)
        for layout in ("channels last", "contiguous")
    ]  # fmt: skip
    for times in content["layer"]:
        assert times["shape"] == SMALL._asdict()
        assert times["clock"] == ("process_time" if times["threads"] == 1 else "perf_counter")
        assert set(times["forward"]) == set(times["forward_backward"]) == {"plain", "layer"}
    assert content["results"] == []
    printed = capsys.readouterr().out
    assert "| B1 N50 C8 K4, contiguous" in printed
    assert "layer over plain, 1 thread: fwd+bwd, T=16, <= 0.85" in printed
    assert torch.get_num_threads() == available


def test_a_layer_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TorchPasses.readout
    monkeypatch.setattr(TorchPasses, "readout", lambda self, e, mu: right(self, e, mu) * 1.001)
    with pytest.raises(SystemExit) as error:
        call([*TINY[:-1], "layer", "--iterations", "1"], monkeypatch)
    assert error.value.code == 1


def test_the_targets_of_the_layer() -> None:
    def times(depth: int, layer: float, forward: float, compiled: float | None = None) -> LayerTimes:
        both = {"plain": [1.0] * 3, "layer": [layer] * 3}
        both |= {} if compiled is None else {"compiled": [compiled] * 3}
        sizes = SMALL._asdict()
        return LayerTimes(sizes, "contiguous", 1, depth, "process_time", "oneDNN",
                          {"plain": [1.0] * 3, "layer": [forward] * 3}, both)  # fmt: skip

    found = report()
    found.layer = [times(1, 1.0, 1.1), times(3, 0.9, 0.9, compiled=0.8), times(16, 0.86, 0.9)]
    verdict = {of.bar: (of.figure.split(";")[0], of.verdict) for of in verdicts(found)}
    where = "at B1 N50 C8 K4, contiguous,"
    assert verdict["layer over plain, 1 thread: fwd+bwd, any T, <= 1.0"] == (
        f"1.000 [1.000, 1.000] {where} T=1", "met"
    )  # fmt: skip
    assert verdict["layer over plain, 1 thread: fwd+bwd, T=16, <= 0.85"][1] == "not met"
    assert verdict["layer over plain, 1 thread: fwd+bwd, plain compiled, <= 1.1"] == (
        f"1.125 [1.125, 1.125] {where} T=3", "not met"
    )  # fmt: skip
    assert verdict["layer over plain, 1 thread: forward, any T, <= 1.0"][1] == "not met"
    found.layer = found.layer[:1]
    assert verdicts(found)[1].verdict.startswith("not measured")


def test_the_targets_of_triton() -> None:
    rows = [
        result(name, 8, [time] * 3, 1, "bfloat16") for name, time in (("reference", 4.0), ("triton", 0.8))
    ]
    found = judged(report(*rows, device="cuda"))
    assert found["T=8, times faster than reference, >= 4"] == "met"
    assert found["T=8, over the roofline bound, <= 3"] == "not met"  # 0.8 over 0.25

    absent = report(rows[0], device="cuda")
    absent.absences.append(Absence("bfloat16", 8, "triton", "too old"))
    assert judged(absent)["T=8, over the roofline bound, <= 3"] == "not measured: too old"


def test_targets_without_their_measurements(capsys: pytest.CaptureFixture[str]) -> None:
    alone = report(result("reference", 1, [1.0], 1))
    alone.verdicts = verdicts(alone)
    assert {verdict.verdict.split(":")[0] for verdict in alone.verdicts} == {"not measured"}
    print_findings(alone)
    assert "not measured: recompute did not run at T=16" in capsys.readouterr().out


def test_the_problem_is_the_same_in_every_type() -> None:
    wide, narrow = (draw(SMALL, dtype, CPU) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(wide.x_BNC.bfloat16(), narrow.x_BNC)
    assert narrow.mu_BKC.dtype == torch.float32
    assert wide.shape == SMALL
    assert draw(Shape(2, 1000, 256, 4), torch.float32, CPU).x_BNC.var().item() == pytest.approx(1.09, rel=0.2)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    bench_em.add_arguments(parser)
    with pytest.raises(SystemExit):
        call(["em", "--help"], monkeypatch)
    text = capsys.readouterr().out
    for action in parser._actions:
        assert max(action.option_strings, key=len) in text
