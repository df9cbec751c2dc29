"""The ranks of a run start as under torchrun, and end together, whatever happens to one of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from _helpers.process_tree import alive, descendants, of_rank
from _helpers.waiting import CEILING, until
from omegaconf import OmegaConf

from hemnet.config.build import local_processes
from hemnet.config.compose import load
from hemnet.errors import HemnetError
from hemnet.processes.launch import RankError, run_ranks
from hemnet.processes.signals import Interrupted
from hemnet.runs import checkpoints
from hemnet.runs.run import Run
from hemnet.train import train


def ranks(code: str, count: int = 2, message: bytes = b"") -> None:
    run_ranks([sys.executable, "-c", code], count, message)


def test_ranks_find_each_other_and_read_the_message(tmp_path: Path) -> None:
    code = f"""
import os, sys, torch, torch.distributed as dist
said = sys.stdin.read()
dist.init_process_group("gloo")
total = torch.tensor(dist.get_rank() + 1.0)
dist.all_reduce(total)
with open({str(tmp_path)!r} + f"/{{dist.get_rank()}}", "w") as file:
    file.write(f"{{said}} {{total.item()}} {{os.environ['LOCAL_RANK']}}")
dist.destroy_process_group()
"""
    ranks(code, message=b"x" * 100_000)
    found = [(tmp_path / str(r)).read_text() for r in range(2)]
    assert found == ["x" * 100_000 + f" 3.0 {r}" for r in range(2)]


FATES = {
    "raises": ("raise SystemExit(3)", "rank 1 of 2 failed with exit status 3"),
    "is killed": ("os.kill(os.getpid(), 9)", "rank 1 of 2 was killed by SIGKILL"),
    "ends early": ("pass", "rank 0 of 2 still ran 1 s after the others had ended"),
}


@pytest.mark.parametrize("fate", FATES)
def test_when_one_ends_badly_all_end_soon_and_none_is_left(
    fate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hemnet.processes.launch.SETTLE_SECONDS", 1.0)
    monkeypatch.setattr("hemnet.processes.launch.FINISH_SECONDS", 1.0)
    ending, message = FATES[fate]
    # Rank 0 has a child process, like a data loader, and ignores signals.
    code = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({str(tmp_path)!r} + "/" + os.environ["RANK"], "w").write(str(os.getpid()))
if os.environ["RANK"] == "0":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    open({str(tmp_path)!r} + "/child", "w").write(str(child.pid))
    time.sleep(3600)
while not os.path.exists({str(tmp_path)!r} + "/child"):
    time.sleep(0.01)
time.sleep(0.2)
{ending}
"""
    started = time.monotonic()
    with pytest.raises(RankError, match=message):
        ranks(code)
    assert time.monotonic() - started < CEILING
    pids = [int((tmp_path / name).read_text()) for name in ("0", "1", "child")]
    until(lambda: not any(map(alive, pids)), "the end of processes that are left behind")


def test_a_signal_is_handed_on_once_and_may_take_its_time(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys, time
def stop(number, _):
    time.sleep(0.5)
    open({str(tmp_path)!r} + "/" + os.environ["RANK"], "a").write("stopped ")
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
open({str(tmp_path)!r} + "/ready" + os.environ["RANK"], "w")
time.sleep(3600)
"""
    with ended_when_ready(tmp_path), pytest.raises(Interrupted) as stopped:
        ranks(code)
    assert stopped.value.code == 143
    assert [(tmp_path / str(r)).read_text() for r in range(2)] == ["stopped "] * 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_first_may_finish_after_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only rank 0 draws figures and waits for W&B."""
    monkeypatch.setattr("hemnet.processes.launch.SETTLE_SECONDS", 0.2)
    ranks("import os, time; time.sleep(0 if os.environ['RANK'] == '1' else 1.5)")


def test_one_that_waits_for_another_that_was_stopped_is_stopped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the initialisation of DDP, during which signals are not handled."""
    monkeypatch.setattr("hemnet.processes.launch.FINISH_SECONDS", 1.0)
    code = f"""
import os, signal, time
if os.environ["RANK"] == "0":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({str(tmp_path)!r} + "/ready" + os.environ["RANK"], "w")
time.sleep(3600)
"""
    with ended_when_ready(tmp_path), pytest.raises(Interrupted) as stopped:
        ranks(code)
    assert stopped.value.code == 143


def ended_when_ready(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that sends this one SIGTERM when two ranks are ready."""
    helper = f"""
import os, time
while not all(os.path.exists({str(folder)!r} + f"/ready{{r}}") for r in range(2)):
    time.sleep(0.05)
os.kill({os.getpid()}, 15)
"""
    return subprocess.Popen([sys.executable, "-c", helper])


def test_how_many_processes_a_run_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_processes(load(["run_dir=x"])) == 1
    two = load(["run_dir=x", "trainer.devices=2"])
    assert local_processes(two) == 2
    with pytest.raises(HemnetError, match="by torchrun or srun"):
        local_processes(load(["run_dir=x", "trainer.num_nodes=2"]))
    with pytest.raises(HemnetError, match="use ddp"):
        local_processes(load(["run_dir=x", "trainer.devices=2", "trainer.strategy=ddp_spawn"]))
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert local_processes(two) == 1


FINISHED = {"status": "finished", "metrics": {"val/miou": 0.5}}


@pytest.mark.parametrize("before", [{}, FINISHED])
@pytest.mark.parametrize(("said", "rank"), [("by the first", 1), ("by the first", 0), (None, 1)])
def test_the_errors_of_ranks_are_kept_and_those_of_an_earlier_run(
    before: dict, said: str | None, rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either of the two, rank 0's error and the end of another rank, may have caused the other."""
    result = tmp_path / "result.json"
    config = load([f"run_dir={tmp_path}", "trainer.devices=2"])
    OmegaConf.save(config, tmp_path / "config.yaml")
    if before:
        result.write_text(json.dumps(before))

    def fail(*_: object) -> None:
        if said:
            result.write_text(json.dumps({"status": "failed", "error": f"Error: {said}", "steps": 3}))
        raise RankError(f"rank {rank} of 2 was killed by SIGKILL", rank)

    monkeypatch.setattr("hemnet.train.run_ranks", fail)
    with pytest.raises(RankError) as raised:
        train(config)
    found = json.loads(result.read_text())
    if said is None and before:
        assert found == before  # of an earlier run, which no rank has changed
        return
    assert (found["status"], found.get("steps")) == ("failed", 3 if said else 0)
    for text in (found["error"], str(raised.value)) if rank else ():
        assert f"rank {rank} of 2 was killed by SIGKILL" in text
    assert said is None or said in found["error"]


SMALL = [
    "data=synthetic", "data.train.length=16", "data.train.size=64", "data.train.cells=4", "data.val.length=3",
    "data.batch_size=2", "logger=csv", "model/backbone=resnet18", "model.backbone.width=4",
    "model.head.channels=8", "model.num_components=4", "model.head.dropout=0.5", "trainer.precision=32",
    "trainer.max_epochs=3", "trainer.devices=2", "callbacks.predictions=null", "callbacks.attention=null",
    "callbacks.cost=null", "trainer.log_every_n_steps=1", "data.num_workers=1",
]  # fmt: skip


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def start(cwd: Path, *overrides: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "-m", "hemnet.train", *SMALL, *overrides]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    until(lambda: checkpointed(run, step), f"the checkpoint of step {step}", process)


def checkpointed(run: Path, step: int) -> bool:
    path = run / "checkpoints" / "last.ckpt"
    return path.is_file() and torch.load(path, weights_only=True)["global_step"] >= step


OFTEN = "callbacks.last.every_minutes=1e-9"


def ended(process: subprocess.Popen[str]) -> int:
    """Wait for the end of a run, and return its exit status."""
    output, _ = process.communicate(timeout=CEILING)
    print(output)  # shown if the test fails
    return process.returncode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run directory of two ranks that nothing stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert ended(start(folder, "run_dir=whole", OFTEN)) == 0
    return folder / "whole"


def assert_equal_runs(one: Path, other: Path) -> None:
    assert json.loads((other / "result.json").read_text())["status"] == "finished"
    saved = [checkpoints.read(run / "checkpoints" / "last.ckpt") for run in (one, other)]
    assert saved[0]["global_step"] == saved[1]["global_step"] == 12
    for name, value in saved[0]["state_dict"].items():
        assert torch.equal(value, saved[1]["state_dict"][name]), name
    losses = [Run.open(run).curves()["train/loss"].tolist() for run in (one, other)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), TORCHRUN], ids=["hemnet", "torchrun"])
def test_two_ranks_stopped_and_resumed_equal_two_undisturbed_ranks(
    launcher: tuple[str, ...], undisturbed: Path, tmp_path: Path
) -> None:
    """Whichever program starts them; torchrun signals the data loaders too, of which there are more here."""
    words = [OFTEN, "run_dir=parts", "resume=auto", f"data.num_workers={2 if launcher else 1}"]
    parts = start(tmp_path, *words, launcher=launcher)
    wait_for_step(tmp_path / "parts", 3, parts)
    parts.send_signal(signal.SIGTERM)
    assert ended(parts) == (1 if launcher else 143)  # torchrun's own status
    assert json.loads((tmp_path / "parts" / "result.json").read_text())["status"] == "preempted"
    assert ended(start(tmp_path, *words, launcher=launcher)) == 0
    assert_equal_runs(undisturbed, tmp_path / "parts")


@pytest.mark.slow
def test_when_a_rank_is_killed_the_run_ends_and_names_it(tmp_path: Path) -> None:
    """The run directory is the default one: all ranks must use the one that the launcher chose."""
    process = start(tmp_path, "trainer.max_epochs=1000000", "callbacks.last.every_minutes=1e-9")
    pattern = "runs/custom/*/checkpoints/last.ckpt"
    until(lambda: list(tmp_path.glob(pattern)), "the first checkpoint", process)
    run = next(tmp_path.glob(pattern)).parents[1]
    tree = descendants(process.pid)
    os.kill(of_rank(1, tree)[0], signal.SIGKILL)
    assert process.wait(CEILING) == 2
    assert len(tree) >= 4  # two ranks and their data loaders
    until(lambda: not any(map(alive, tree)), "the end of processes that are left behind")
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "failed"
    assert "rank 1 of 2 was killed by SIGKILL" in result["error"]
    assert len(list((tmp_path / "runs" / "custom").iterdir())) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
