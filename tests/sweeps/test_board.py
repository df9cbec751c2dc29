"""What a user sees while a sweep runs."""

import csv
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from hemnet.sweeps.board import Board
from hemnet.sweeps.jobs import Job


def jobs(folder: Path) -> list[Job]:
    made = [Job(f"seed-{i}", folder / f"seed-{i}", []) for i in range(4)]
    for job in made:
        job.path.mkdir()
    (made[0].path / "result.json").write_text('{"status": "finished", "metrics": {"val/miou": 0.8125}}')
    made[0].status = "finished"
    made[1].status, made[1].error = "failed", "ValueError: [no] such thing"
    made[2].status = "running"
    (made[2].path / "console.log").write_text("epoch 1  step 10/20\nepoch 2  step 20/20\n\n")
    return made


def test_a_terminal_shows_a_table_of_all_jobs(tmp_path: Path) -> None:
    stream = io.StringIO()
    with Board(jobs(tmp_path), tmp_path, Console(file=stream, force_terminal=True, width=100)):
        pass
    text = stream.getvalue()
    for words in ("seed-0", "0.8125", "ValueError: [no] such thing", "epoch 2  step 20/20", "waiting"):
        assert words in text
    assert "epoch 1" not in text
    assert "1 failed, 1 finished, 1 running, 1 waiting" in text


def test_elsewhere_each_change_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = jobs(tmp_path)
    with Board(found, tmp_path) as board:
        found[2].status, found[2].seconds = "preempted", 12.4
        board.update()
        board.update()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "[2/4] finished  seed-0  val/miou 0.8125",
        "[2/4] failed    seed-1",
        "[2/4] running   seed-2",
        "[3/4] preempted seed-2  12 s",
    ]


def test_jobs_csv_is_kept_up_to_date(tmp_path: Path) -> None:
    found = jobs(tmp_path)
    with Board(found, tmp_path) as board:
        found[3].status = "running"
        board.update()
        with (tmp_path / "jobs.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["finished", "failed", "running", "running"]
    assert (rows[0]["val/miou"], rows[1]["error"]) == ("0.8125", "ValueError: [no] such thing")


def test_of_very_many_jobs_those_that_matter_stay(tmp_path: Path) -> None:
    found = [Job(f"job-{i:03d}", tmp_path / str(i), []) for i in range(100)]
    for i, job in enumerate(found):
        job.status = "failed" if i == 7 else "running" if i == 60 else "finished" if i < 60 else "waiting"
    stream = io.StringIO()
    with Board(found, tmp_path, Console(file=stream, force_terminal=True, width=100, height=60)):
        pass
    text = stream.getvalue()
    assert "job-007" in text
    assert "job-060" in text
    assert len(set(re.findall(r"job-\d+", text))) == 30
