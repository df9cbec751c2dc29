"""Whatever happens to W&B, training ends as without it, with all metrics, at most a little later."""

import csv
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import pytorch_lightning as pl
from _helpers.process_tree import descendants
from _helpers.toy import data, task, trainer
from _helpers.waiting import BOUND, CEILING
from _helpers.wandb_files import history, offline_runs, started
from pytorch_lightning.loggers import CSVLogger

from hemnet.loggers.wandb_guard import Guard
from hemnet.loggers.wandb_run import wandb_logger
from hemnet.sweeps.pool import Slot

EPOCHS, STEPS = 3, 6


class At(pl.Callback):
    """Calls a function once, at a step."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            self.action()


def fit(folder: Path, *callbacks: pl.Callback, mode: str | None = None) -> float:
    """Train with both loggers, check that metrics.csv is complete, and return the seconds it took."""
    loggers = [CSVLogger(folder, name="", version=""), wandb_logger(str(folder), mode=mode)]  # type: ignore[arg-type]
    began = time.monotonic()
    toy = trainer(
        folder, max_epochs=EPOCHS, enable_checkpointing=False, logger=loggers, callbacks=list(callbacks),
        log_every_n_steps=1,
    )  # fmt: skip
    toy.fit(task(), datamodule=data())
    took = time.monotonic() - began
    assert toy.state.finished
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(STEPS))
    assert len([row for row in rows if row["val/miou"]]) == EPOCHS
    return took


@pytest.mark.parametrize("row", ["0,abc", "1", "0,1,2", "0,\udcff"])
def test_files_of_the_run_that_cannot_be_read_do_not_give_up_wandb(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, row: str
) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "id.txt").write_bytes(b"\xff\xfe\x00")
    text = f"step,em/entropy/00\n0,1\n{row}\n"
    (tmp_path / "metrics.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    logger = wandb_logger(str(tmp_path), mode="offline")
    logger.log_metrics({"train/loss": 0.5}, 1)
    logger.finalize("success")
    assert not logger.guard.failed, caplog.text
    assert re.fullmatch(r"\w+\n", (tmp_path / "wandb" / "id.txt").read_text())
    assert offline_runs(tmp_path)


def service() -> int:
    """The process id of W&B's service."""
    (pid,) = (pid for pid in descendants(os.getpid()) if "wandb-core" in name(pid))
    return pid


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def given_up(log: pytest.LogCaptureFixture) -> int:
    return sum("given up" in record.getMessage() for record in log.records)


def assert_the_next_job_is_well(folder: Path) -> None:
    fit(folder, mode="offline")
    (run,) = offline_runs(folder)
    assert len([row for row in history(run) if "train/loss" in row]) == STEPS
    assert not [pid for pid in descendants(os.getpid()) if "wandb-core" in name(pid)]


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="finds W&B's service in /proc")


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_service_that_ends_or_hangs_does_not_end_training(
    number: signal.Signals, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "hemnet"):
        took = fit(tmp_path / "a", At(2, lambda: os.kill(service(), number)), mode="offline")
    assert took < BOUND
    assert given_up(caplog) == 1
    assert_the_next_job_is_well(tmp_path / "b")


FULL = """
import resource, sys
from pathlib import Path
from loggers.test_wandb_failures import fit
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
print("took", fit(Path("a"), mode="offline"))
"""


@pytest.mark.slow
def test_a_full_disk_does_not_end_training(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True, timeout=CEILING,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("took ")[1]) < BOUND
    assert done.stderr.count("given up") == 1, done.stderr


@pytest.mark.slow
def test_a_directory_that_cannot_be_does_not_end_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "wandb").write_text("a file")
    with caplog.at_level(logging.WARNING, "hemnet"):
        assert fit(tmp_path / "a", mode="offline") < BOUND
    assert given_up(caplog) == 1
    assert_the_next_job_is_well(tmp_path / "b")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    return monkeypatch


@pytest.mark.slow
def test_a_server_that_is_silent(online: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        online.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert fit(tmp_path) < BOUND
    assert len(offline_runs(tmp_path)) == 1


class Server(BaseHTTPRequestHandler):
    """The part of W&B's server that a run needs; a test can make it fail."""

    state = "good"
    seen: list[str]
    released: threading.Event

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode(errors="replace")
        if self.state == "silent":
            self.released.wait(120)
            return
        if self.state == "broken":
            self.send_error(500)
            return
        self.seen.append(f"{self.path} {sent}")
        self.answer(reply_to(sent) if self.path == "/graphql" else {"exitcode": None, "limits": {}})

    def answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def reply_to(sent: str) -> object:
    project = {"name": "hemnet", "entity": {"name": "us", "id": "e"}, "id": "p"}
    asked = re.search(r'"name": ?"(\w+)"', sent)
    bucket = {
        "id": "cnVu", "name": asked[1] if asked else "run", "displayName": "run", "description": "",
        "config": "{}", "sweepName": None, "project": project, "historyLineCount": 0, "eventsLineCount": 0,
    }  # fmt: skip
    return {
        "data": {
            "viewer": {"id": "v", "entity": "us", "username": "us", "flags": "{}", "teams": {"edges": []}},
            "serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None, "features": []},
            "upsertBucket": {"bucket": bucket, "inserted": True},
            "model": {"bucket": None},
            "createRunFiles": {"runID": "cnVu", "uploadHeaders": [], "files": []},
            "__type": {"fields": []}, "QueryType": {"fields": []}, "MutationType": {"fields": []},
        }
    }  # fmt: skip


@pytest.fixture
def server(online: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    handler = type("BoundServer", (Server,), {"seen": [], "released": threading.Event()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        running.block_on_close = False
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        online.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{running.server_port}")
        try:
            yield handler
        finally:
            handler.released.set()
            running.shutdown()
            thread.join()


def online_run(folder: Path) -> Path:
    (run,) = (folder / "wandb").glob("run-*")
    return run


@pytest.mark.slow
def test_a_server_that_is_well_gets_the_run(server: type[Server], tmp_path: Path) -> None:
    assert fit(tmp_path) < BOUND
    sent = [line for line in server.seen if line.startswith("/files")]
    assert any("train/loss" in line for line in sent)
    assert any('"exitcode":0' in line.replace(" ", "") for line in sent)
    assert len([row for row in history(online_run(tmp_path)) if "train/loss" in row]) == STEPS


@pytest.mark.slow
def test_a_server_of_ones_own_is_known_from_a_login(
    server: type[Server], online: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`wandb login --host` keeps its address in W&B's settings, and the key by host and port in netrc."""
    address = os.environ["WANDB_BASE_URL"]
    online.delenv("WANDB_BASE_URL")
    online.delenv("WANDB_API_KEY")
    (tmp_path / "settings").write_text(f"[default]\nbase_url = {address}\n")
    online.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    machine = address.removeprefix("http://")
    (tmp_path / "netrc").write_text(f"machine {machine} login user password {'0' * 40}\n")
    online.setenv("NETRC", str(tmp_path / "netrc"))
    assert fit(tmp_path) < BOUND
    assert server.seen
    assert online_run(tmp_path)


ON_A_TERMINAL = """
import os, pty, signal, sys
child, terminal = pty.fork()
if child == 0:
    from pathlib import Path
    from loggers.test_wandb_failures import fit
    fit(Path("a"))
    sys.exit()
said = b""
try:
    while piece := os.read(terminal, 4096):
        said += piece
except OSError:  # the end, on Linux
    pass
sys.stdout.buffer.write(said)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["machine {} login user", "machine 127.0.0.1 login user password {}"])
def test_an_entry_that_holds_no_key_is_not_asked_about(
    entry: str, server: type[Server], online: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A prompt of W&B would stop the run, and abort its process at the end."""
    online.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text(entry.format(os.environ["WANDB_BASE_URL"].removeprefix("http://")))
    online.setenv("NETRC", str(tmp_path / "netrc"))
    done = subprocess.run(
        [sys.executable, "-c", ON_A_TERMINAL], cwd=tmp_path, capture_output=True, text=True, timeout=CEILING,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "choice" not in done.stdout
    assert len(offline_runs(tmp_path / "a")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("state", ["broken", "silent"])
def test_a_server_that_fails_from_the_start(
    state: str, server: type[Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.state = state
    with caplog.at_level(logging.WARNING, "hemnet"):
        assert fit(tmp_path) < BOUND
    assert "this run is logged offline" in caplog.text
    (run,) = offline_runs(tmp_path)
    assert len([row for row in history(run) if "train/loss" in row]) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("state", ["broken", "silent"])
def test_a_server_that_fails_in_the_middle_and_what_it_missed_is_kept(
    state: str, server: type[Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        server.state = state

    with caplog.at_level(logging.WARNING, "hemnet"):
        assert fit(tmp_path, At(2, fail)) < BOUND
    assert given_up(caplog) == 1
    assert f"wandb sync {tmp_path}/wandb/run-*" in caplog.text
    assert len([row for row in history(online_run(tmp_path)) if "train/loss" in row]) == STEPS


def test_the_jobs_of_a_sweep_do_not_share_a_run_that_they_inherit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "inherited")
    assert "WANDB_RUN_ID" not in Slot(1).environment()
    logger = wandb_logger(str(tmp_path))
    logger.log_metrics({"a": 1.0}, 0)
    logger.finalize("success")
    assert started(offline_runs(tmp_path)[0]).run_id not in ("inherited", "")


def test_the_guard_lets_nothing_out_and_asks_nothing_more_after_a_failure() -> None:
    problems: list[str] = []
    guard = Guard(problems.append, 10.0)
    assert guard(lambda: 3, 1.0) == 3

    def leave() -> None:
        sys.exit(1)

    assert guard(leave, 1.0) is None
    assert problems == ["SystemExit: 1"]
    asked: list[int] = []
    guard(lambda: asked.append(1))
    guard.here(lambda: asked.append(2))
    assert not asked
    assert len(problems) == 1


def test_slow_calls_have_a_budget_and_quick_ones_do_not() -> None:
    problems: list[str] = []
    guard = Guard(problems.append, 1.5)
    for _ in range(8):
        guard(lambda: time.sleep(0.2))
    assert not problems
    guard(lambda: time.sleep(1.1), 5.0)
    guard(lambda: time.sleep(1.1), 5.0)
    assert [problem[:27] for problem in problems] == ["TimeoutError: no answer wit"]


def test_a_signal_is_passed_on_while_the_call_continues() -> None:
    problems: list[str] = []
    guard = Guard(problems.append, 20.0)
    done: list[int] = []

    def call() -> None:
        time.sleep(0.5)
        done.append(1)

    def ring(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            guard(call, 5.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    guard(lambda: done.append(2), 5.0)
    assert done == [1, 2]
    assert not problems
