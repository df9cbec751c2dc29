"""The state of a sweep: a table on a terminal, otherwise a line per change, and jobs.csv."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from hemnet.errors import HemnetError
from hemnet.storage.destinations import writing
from hemnet.storage.files import write_table
from hemnet.sweeps.jobs import Job

log = logging.getLogger(__name__)
COLOURS = {"finished": "green", "skipped": "dim", "failed": "red", "preempted": "yellow", "running": "bold"}
# A terminal has room for so many rows; of more jobs, some that are over or waiting are left out.
MOST_ROWS = 30
LATEST_WIDTH = 48
REFRESH_SECONDS = 1.0


class Board:
    """Shows jobs while they run, and writes jobs.csv.

    Args:
        jobs: the jobs to show.
        folder: the folder for jobs.csv.
        console: where to show the table; None is the standard output.
    """

    def __init__(self, jobs: Sequence[Job], folder: Path, console: Console | None = None) -> None:
        self.jobs = jobs
        self.folder = folder
        console = console or Console()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown: dict[str, str] = {}
        self._drawn = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        self.update()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.update()
        if self._live is not None:
            self._live.stop()

    def update(self) -> None:
        """Show what has changed."""
        changed = [job for job in self.jobs if self._shown.get(job.name) != job.status]
        if self._live is not None:
            if changed or time.monotonic() - self._drawn > REFRESH_SECONDS:
                self._live.update(self._table(), refresh=True)
                self._drawn = time.monotonic()
        else:
            for job in changed:
                if job.status != "waiting":
                    self._print(job)
        if changed:
            begun = bool(self._shown)
            self._shown |= {job.name: job.status for job in changed}
            try:
                self._write()
            except HemnetError as error:
                if not begun:
                    raise
                log.warning("%s", error)  # jobs that run need no table

    def _print(self, job: Job) -> None:
        over = sum(other.status not in ("waiting", "running") for other in self.jobs)
        miou = job.miou
        facts = "" if miou is None else f"  val/miou {miou:.4f}"
        facts += f"  {job.seconds:.0f} s" if job.seconds else ""
        # The error of a failed job stands at the end, once: see `hemnet.sweeps.sweep.failures`.
        facts += f"  {job.error}" if job.error and job.status != "failed" else ""
        print(f"[{over}/{len(self.jobs)}] {job.status:9} {job.name}{facts}".rstrip(), flush=True)

    def _table(self) -> Table:
        counts = Counter(job.status for job in self.jobs)
        caption = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        table = Table(title=str(self.folder), caption=caption)
        table.add_column("job", overflow="fold", min_width=24)
        for heading in ("status", "val/miou", "time"):
            table.add_column(heading, no_wrap=True, min_width=8)
        table.add_column("latest", overflow="ellipsis", no_wrap=True, max_width=LATEST_WIDTH)
        for job in self._rows():
            miou = "" if (found := job.miou) is None else f"{found:.4f}"
            seconds = f"{job.seconds:.0f} s" if job.seconds else ""
            latest = self._latest(job)
            style = COLOURS.get(job.status, "")
            table.add_row(escape(job.name), job.status, miou, seconds, escape(latest.strip()), style=style)
        return table

    def _latest(self, job: Job) -> str:
        if job.status == "failed" and any(other.status in ("waiting", "running") for other in self.jobs):
            return job.error  # until the end, which has the errors in full
        return (job.console[-1:] or [""])[0] if job.status == "running" else ""

    def _rows(self) -> list[Job]:
        rows = list(self.jobs)
        for dispensable in ("skipped", "finished", "waiting"):
            spare = len(rows) - MOST_ROWS
            if spare > 0:
                left_out = [job for job in rows if job.status == dispensable][:spare]
                rows = [job for job in rows if job not in left_out]
        return rows

    def _write(self) -> None:
        rows = [[job.name, job.status, job.miou, round(job.seconds, 1), job.error] for job in self.jobs]
        with writing(path := self.folder / "jobs.csv"):
            write_table(path, ["job", "status", "val/miou", "seconds", "error"], rows)
