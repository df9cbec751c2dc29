"""The chapters on the runs behind the report: seeds, devices, revisions, and jobs that did not finish."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hemnet.report.contents import MISSING, Block, Cell, Column, Table
from hemnet.report.groups import Section
from hemnet.report.record import STATUSES, Record, Unreadable
from hemnet.wording import tally

COUNTED = (*STATUSES, "unfinished", "debug")


def overview(records: Sequence[Record], unreadable: Sequence[Unreadable], made: Sequence[Section]) -> Block:
    """Return the table of runs, seeds, devices and revisions, and that of the jobs."""
    # A copy of a run took no time.
    took = {_origin(record): float(record.result.get("seconds") or 0) for record in records}
    hours = sum(took.values()) / 3600
    known = not unreadable and all(record.seconds is not None for record in records)
    counted = [run for section in made for run in section.runs if run.scored]
    seeds = sorted({run.identity.seed for run in counted})
    facts: list[tuple[str, str]] = [
        ("runs", f"{len(records) + len(unreadable)} found, {len(counted)} finished and counted"),
        ("seeds", ", ".join(map(str, seeds)) or "none"),
        ("recipes", ", ".join(sorted({record.identity.experiment for record in records}))),
        ("devices", tally(record.machine for record in records)),
        ("revisions", tally(record.revision for record in records)),
        ("hours of training", f"{'' if known else 'at least '}{hours:.2f}"),
    ]
    table = Table("overview", "What this report is made of.", (Column("what"), Column("found")), facts)
    return Block("What it is made of", [], [table, _status_table(records, unreadable)])


def _origin(record: Record) -> tuple[object, ...]:
    """Return what a run shares with a copy of it, and with no other run."""
    started, seconds = record.environment.get("started"), record.result.get("seconds")
    return record.identity, str([started, seconds, record.settings, record.scores])


def origins(section: Section) -> Block | None:
    """Return how many runs are of which revision of the code, and of which instruction set.

    None if all are of one. Runs that did not record their instruction set count only beside two that differ.
    """
    revisions = [run.revision for run in section.runs]
    instructions = [run.instructions for run in section.runs]
    said: list[str] = []
    if len(set(revisions)) > 1:
        said.append(
            "The runs that are compared here are of several revisions of the code: "
            f"{tally(revisions)}. With one seed, two revisions may differ by as much as two settings."
        )
    if len({*instructions} - {None}) > 1:
        named = tally(each or "not recorded" for each in instructions)
        said.append(
            "The runs that are compared here are of processors with several instruction sets: "
            f"{named}. Each rounds sums in its own way, so that two runs of one setting and seed may end as "
            "far apart as two seeds."
        )
    return Block("Revisions and processors", said) if said else None


def _status_table(records: Sequence[Record], unreadable: Sequence[Unreadable]) -> Table:
    rows: list[list[Cell]] = []
    for who in sorted({_job(record) for record in records}):
        mine = [record for record in records if _job(record) == who]
        counts = Counter(record.status if record.status in COUNTED else "failed" for record in mine)
        again = sum(record.superseded for record in mine)
        rows.append([*who, *(counts[status] for status in COUNTED), again])
    caption = "Jobs of each sweep." + (f" {len(unreadable)} more cannot be read." if unreadable else "")
    columns = (Column("recipe"), Column("sweep"), *map(Column, COUNTED), Column("replaced by another run"))
    return Table("jobs", caption, columns, rows)


def _job(record: Record) -> tuple[str, str]:
    return record.identity.experiment, record.identity.sweep or MISSING


def problems(records: Sequence[Record], unreadable: Sequence[Unreadable], folder: Path) -> Block | None:
    """Return the runs that do not count, and why; paths below ``folder`` are relative to it."""
    rows: list[list[Cell]] = []
    for record in records:
        rows += [[_place(record.path, folder), *reason] for reason in _reasons(record)]
    rows += [[_place(bad.path, folder), "unreadable", bad.error] for bad in unreadable]
    if not rows:
        return None
    columns = (Column("run"), Column("status"), Column("reason"))
    caption = "Runs that do not count, or of which a damaged part is left out, and why."
    table = Table("problems", caption, columns, rows)
    return Block("Runs that do not count", [], [table])


def _reasons(record: Record) -> list[tuple[str, str]]:
    """Return a status and a reason for each thing why a run, or a part of it, does not count."""
    found = [(record.status, doubt) for doubt in record.doubts]
    if record.status != "finished":
        found.insert(0, (record.status, record.error or "no result.json: still running, or killed"))
    elif not record.scored:
        found.insert(0, ("finished", "no val/miou: it is NaN or was not written"))
    elif record.superseded:
        found.insert(0, ("replaced", "another run, a later one or a copy, has the same settings and seed"))
    return found


def warnings(records: Sequence[Record], folder: Path) -> Block | None:
    """Return what the runs' data made them warn of; paths below ``folder`` are relative to it."""
    rows: list[list[Cell]] = [
        [_place(record.path, folder), str(warning)]
        for record in records
        for warning in record.result.get("warnings") or []
    ]
    if not rows:
        return None
    table = Table("warnings", "Runs whose scores may mean little.", (Column("run"), Column("warning")), rows)
    return Block("Labels from which nothing can be learnt", [], [table])


def _place(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
