"""What an offline W&B run holds: its file is a log of protocol buffers in blocks, as LevelDB's are."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb
from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK, PIECE = 7, 32768, 7
LAST_PIECE = (1, 4)  # a whole record, or its end


def offline_runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def records(offline_run: Path) -> Iterator[Record]:
    wandb.teardown()  # on a busy machine the file of a finished run is still being written
    (path,) = offline_run.glob("*.wandb")
    content, at, piece = path.read_bytes(), HEADER, b""
    while at < len(content):
        if (room := BLOCK - at % BLOCK) < PIECE:
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + PIECE])
        at += PIECE
        piece += content[at : at + length]
        at += length
        if kind in LAST_PIECE:
            record = Record()
            record.ParseFromString(piece)
            yield record
            piece = b""


def started(offline_run: Path) -> Any:
    """The record that says what the run is: run_id, run_group, job_type, tags, project."""
    (run,) = (record.run for record in records(offline_run) if record.HasField("run"))
    return run


def config(offline_run: Path) -> dict[str, Any]:
    return {item.key: json.loads(item.value_json) for item in started(offline_run).config.update}


def history(offline_run: Path) -> list[dict[str, Any]]:
    rows = [record.history for record in records(offline_run) if record.HasField("history")]
    return [{i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in row.item} for row in rows]


def summary(offline_run: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records(offline_run):
        if record.HasField("summary"):
            for item in record.summary.update:
                found[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return found
