"""How a sweep stands: a table on a terminal, a line per change elsewhere, and jobs.csv."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from hemnet.files import replacing
from hemnet.sweeps.jobs import Job

COLOURS = {"finished": "green", "skipped": "dim", "failed": "red", "preempted": "yellow", "running": "bold"}
# So many rows fit a terminal; of more, those that are over or still wait are left out.
MOST_ROWS = 30


class Board:
    """Shows jobs while they run.

    Args:
        jobs: to show.
        folder: of the sweep, where jobs.csv is kept.
    """

    def __init__(self, jobs: Sequence[Job], folder: Path) -> None:
        self.jobs = jobs
        self.folder = folder
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._shown: dict[str, str] = {}

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
            self._live.update(self._table(), refresh=True)
        else:
            for job in changed:
                if job.status != "waiting":
                    self._print(job)
        if changed:
            self._shown |= {job.name: job.status for job in changed}
            self._write()

    def _print(self, job: Job) -> None:
        over = sum(other.status not in ("waiting", "running") for other in self.jobs)
        facts = f"  val/miou {job.miou:.4f}" if job.miou is not None else ""
        facts += f"  {job.seconds:.0f} s" if job.seconds else ""
        print(f"[{over}/{len(self.jobs)}] {job.status:9} {job.name}{facts}  {job.error}".rstrip(), flush=True)

    def _table(self) -> Table:
        counts = Counter(job.status for job in self.jobs)
        caption = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        table = Table(title=str(self.folder), caption=caption)
        for heading in ("job", "status", "val/miou", "time", "latest"):
            table.add_column(
                heading, overflow="fold" if heading == "job" else "ellipsis", no_wrap=heading != "job"
            )
        for job in self._rows():
            colour = COLOURS.get(job.status, "")
            miou = "" if job.miou is None else f"{job.miou:.4f}"
            latest = job.error or (job.console[-1:] or [""])[0] if job.status != "waiting" else ""
            time = f"{job.seconds:.0f} s" if job.seconds else ""
            table.add_row(job.name, job.status, miou, time, latest.strip(), style=colour)
        return table

    def _rows(self) -> list[Job]:
        rows = list(self.jobs)
        for dispensable in ("skipped", "finished", "waiting"):
            spare = len(rows) - MOST_ROWS
            if spare > 0:
                left_out = [job for job in rows if job.status == dispensable][:spare]
                rows = [job for job in rows if job not in left_out]
        return rows

    def _write(self) -> None:
        with replacing(self.folder / "jobs.csv") as part, part.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["job", "status", "val/miou", "seconds", "error"])
            for job in self.jobs:
                writer.writerow([job.name, job.status, job.miou, round(job.seconds, 1), job.error])
