"""``python -m hemnet.bench ddp``: the projection against arithmetic by hand, the command as it is called."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from _helpers.waiting import CEILING

from hemnet.bench import __main__ as command
from hemnet.bench.arguments import BenchError
from hemnet.bench.ddp_steps import Measured, measure
from hemnet.bench.scaling import Assumptions, Workload, project, workload
from hemnet.config.build import build_network
from hemnet.config.compose import load
from hemnet.config.explain import ConfigError
from hemnet.nets.flops import count_parameters

# Round numbers: a step of 3 x 10 x 2e9 FLOPs at half of 1.2e12 a second takes 0.1 s; 80 MB in pieces of 30.
WORK = Workload("toy", gradient_bytes=80_000_000, forward_flops=2_000_000_000, batch=10, small_collectives=5)
GIVEN = Assumptions(
    peak_flops=1.2e12, utilization=0.5, intra_bandwidth=10e9, inter_bandwidth=1e9, intra_latency=1e-5,
    inter_latency=1e-4, overlap=0.25, bucket_bytes=30e6,
)  # fmt: skip


def test_one_gpu_computes_and_waits_for_nothing() -> None:
    alone = project(WORK, GIVEN, 1, 1)
    assert (alone.compute, alone.reduce, alone.hidden, alone.small) == (pytest.approx(0.1), 0, 0, 0)
    assert alone.efficiency == 1
    assert alone.images_per_second == pytest.approx(100)


def test_a_ring_within_a_machine() -> None:
    found = project(WORK, GIVEN, 1, 4)
    # Of 80 MB each GPU sends 3/4 twice, 120 MB at 10 GB/s; three pieces of 6 messages each, 10 us a message.
    assert found.reduce == pytest.approx(0.012 + 3 * 60e-6)
    assert found.hidden == pytest.approx(0.25 * found.reduce)
    assert found.small == pytest.approx(5 * 60e-6)
    step = 0.1 + 0.75 * 0.01218 + 0.0003
    assert found.step == pytest.approx(step)
    assert found.efficiency == pytest.approx(0.1 / step)
    assert found.images_per_second == pytest.approx(40 / step)


def test_rings_within_and_between_machines() -> None:
    found = project(WORK, GIVEN, 4, 4)
    # Besides: of each GPU's quarter 3/4 leave the machine twice, those of four GPUs through its 1 GB/s; and 6
    # messages of 100 us a piece.
    assert found.reduce == pytest.approx(0.012 + 0.12 + 3 * (60e-6 + 600e-6))
    assert found.small == pytest.approx(5 * 660e-6)
    apart = project(WORK, GIVEN, 4, 1)
    assert apart.reduce == pytest.approx(0.12 + 3 * 600e-6)  # a ring of machines


def test_no_more_hides_than_the_backward_pass_is_long() -> None:
    slow = replace(GIVEN, inter_bandwidth=1e8, overlap=1.0)
    found = project(WORK, slow, 4, 4)
    assert found.reduce > 1.2
    assert found.hidden == pytest.approx(0.2 / 3)
    assert project(WORK, replace(GIVEN, overlap=1.0), 1, 4).step == pytest.approx(0.1 + 0.0003)


def test_a_measured_step_takes_the_place_of_the_rate() -> None:
    found = project(WORK, replace(GIVEN, step_seconds=0.5), 1, 1)
    assert found.step == 0.5


def test_what_a_recipe_asks_for_is_counted_from_its_network() -> None:
    network = build_network(load(["experiment=synthetic_hem"]), 4, pretrained=False)
    found = workload(["experiment=synthetic_hem"], 4)
    assert found.gradient_bytes == 4 * count_parameters(network)["total"]
    assert (found.name, found.batch) == ("synthetic_hem", 4)
    # The batch counts and the floats of all buffers, and the moving average of the means.
    assert found.small_collectives == 4
    large, half = (
        workload(["experiment=voc_hem", *changes], 21)
        for changes in ([], ["data.train_transform.crop_size=257", "trainer.sync_batchnorm=false"])
    )
    # ResNet-50's 53 norms and the three of the head, forward and backward.
    assert large.small_collectives == 4 + 2 * 56
    assert half.small_collectives == 4
    # 257 is 17 positions at stride 16, 513 is 33; the EM head's own work is proportional too.
    assert large.forward_flops / half.forward_flops == pytest.approx((33 / 17) ** 2, rel=0.03)
    assert 4 * large.gradient_bytes == 4 * half.gradient_bytes == 16 * 34_657_621


def test_bandwidth_and_efficiency_of_what_was_measured() -> None:
    found = Measured({"gradient_bytes": 3_000_000}, 4, [1.0, 3.0, 2.0], [1.0] * 3, [2.0, 4.0, 8.0], [0.5] * 3)
    assert found.bandwidth == 9e6  # 3/4 of 3 MB, twice
    assert found.efficiency(found.together).median == 0.5  # of 1/2, 3/4 and 1/4


SMALL = ["data.train.size=32", "data.train.cells=4", "data.train.length=8", "data.batch_size=2",
         "model.backbone.width=4", "model.head.channels=8", "model.num_components=4"]  # fmt: skip


@pytest.mark.slow
def test_the_command_measures_and_projects(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    projected = ["--project", "experiment=camvid_hem", "--classes", "11", "--overlap", "0.75"]
    arguments = ["experiment=synthetic_hem", *SMALL, "--rounds", "3", "--machines", "1x1", "2x3", *projected,
                 "--json", str(file)]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "hemnet.bench", "ddp", *arguments], cwd=tmp_path, capture_output=True,
        text=True, timeout=CEILING, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    measured = found["measured"]
    about = {"name": "synthetic_hem", "batch": 2, "crop": [32, 32], "precision": "32-true"}
    assert measured["about"].items() >= about.items()
    for times in ("alone", "apart", "together", "reduce"):
        assert len(measured[times]) == 3
        assert min(measured[times]) > 0
    assert found["workload"]["name"] == "camvid_hem"
    assert found["assumptions"]["overlap"] == 0.75
    assert [(p["machines"], p["gpus"]) for p in found["projections"]] == [(1, 1), (2, 3)]
    measured_at, projected_at = (done.stdout.index(word) for word in ("MEASURED: the", "PROJECTED, not"))
    assert measured_at < projected_at
    assert "2, gradients averaged" in done.stdout
    assert "that can run during the backward pass: 0.75 (--overlap)" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"found.json"}


@pytest.mark.slow
def test_a_process_that_ends_is_missed() -> None:
    with pytest.raises(BenchError, match=r"a process of the benchmark ended: .*fewer than one batch of 99"):
        measure(["experiment=synthetic_hem", *SMALL, "data.batch_size=99"], processes=2, rounds=1)


def test_a_projection_alone_starts_no_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["bench", "ddp", "--rounds", "0", "--step-seconds", "0.25", "--machines", "1x2"]
    )
    command._entry()
    printed = capsys.readouterr().out
    assert "MEASURED" not in printed
    assert "voc_hem, 16 images a GPU and step; 138.6 MB of gradients" in printed
    assert "seconds per step of one GPU: 0.25 (--step-seconds)" in printed
    row = next(line for line in printed.splitlines() if line.startswith("| 1 x 2"))
    assert row.split()[5:9:2] == ["32", "250.0"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--processes", "1"], BenchError), (["--machines", "8"], SystemExit),
        (["--overlap", "2"], SystemExit), (["--json", "nowhere/x.json"], BenchError),
        (["experiment=synthetic"], ConfigError), (["--project", "experiment=voc"], ConfigError),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(
    arguments: list[str], error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "ddp", *arguments])
    with pytest.raises(error):
        command._entry()
