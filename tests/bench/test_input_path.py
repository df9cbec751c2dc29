"""``python -m hemnet.bench data``: as a user calls it, and its arithmetic."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from _helpers.camvid_files import MakeCamVid
from _helpers.waiting import CEILING

from hemnet.bench import __main__ as command
from hemnet.bench import input_path
from hemnet.bench.arguments import BenchError
from hemnet.bench.input_path import InputFindings, InputStage, LoaderTimes
from hemnet.config.explain import ConfigError
from hemnet.data import CamVid, DataError, Sample

SMALL = ["data.train_transform.crop_size=32", "data.batch_size=2", "--seconds", "0.1"]


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "data", *arguments])
    command._entry()


def test_the_command_measures_a_set_on_disk_with_its_cache(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    root, file = make_camvid(train=5, val=2), tmp_path / "found.json"
    arguments = ["data=camvid", f"data.root={root}", f"data.cache={tmp_path}/cache", *SMALL,
                 "--workers", "0", "2", "--need", "1e-3", "--json", str(file)]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "hemnet.bench", "data", *arguments],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=CEILING, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["data"] == {"name": "camvid", "images": 5, "batch_size": 2, "cached": True}
    assert [stage["name"] for stage in found["stages"]] == ["decode", "read the cache", "augment", "collate"]
    assert [loader["workers"] for loader in found["loaders"]] == [0, 2]
    for measured in (*found["stages"], *found["loaders"]):
        assert len(measured["seconds"]) >= 5
        assert min(measured["seconds"]) > 0
    assert [verdict["verdict"] for verdict in found["verdicts"]] == ["met", "met"]
    assert "loader with 2 workers, images/s, >= 0.001" in done.stdout
    assert found["environment"]["command"][:4] == ["python", "-m", "hemnet.bench", "data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "camvid", "found.json"]
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the evaluation split is not needed


def test_a_synthetic_set_without_a_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    smaller = ["data.train.size=32", "data.train.length=8"]
    call(["data=synthetic", *smaller, "--workers", "0", "--seconds", "0.1"], monkeypatch)
    printed = capsys.readouterr().out
    assert "mosaic, 8 training images, batches of 4, no cache" in printed
    assert "read the cache" not in printed
    assert "--need for a verdict" in printed
    assert torch.get_num_threads() == threads


def test_what_a_stage_takes_is_what_is_measured(
    make_camvid: MakeCamVid,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A reader that sleeps 0.1 s an image cannot give more than 10 images/s, but takes no core."""
    read = CamVid.read

    def slow(self: CamVid, index: int) -> Sample:
        time.sleep(0.1)
        return read(self, index)

    monkeypatch.setattr(CamVid, "read", slow)
    root, file = make_camvid(train=4, val=1), tmp_path / "found.json"
    call(["data=camvid", f"data.root={root}", *SMALL, "--workers", "0", "--need", "50", "--json", str(file)],
         monkeypatch)  # fmt: skip
    found = json.loads(file.read_text())
    decode, augment, _ = found["stages"]
    assert min(decode["seconds"]) >= 0.1
    # The fastest: the others may have waited for a busy machine's cores.
    assert min(decode["cpu_seconds"]) < 0.1
    assert min(augment["seconds"]) < 0.1
    assert min(found["loaders"][0]["seconds"]) >= 0.1
    assert found["verdicts"][0]["verdict"].startswith("not met: the loader is the bottleneck")
    assert "Feeding 50 images/s takes" in capsys.readouterr().out


def test_the_sum_of_the_stages_leaves_out_what_training_does() -> None:
    stages = [InputStage(name, [1.0], [cpu, 9 * cpu, cpu]) for name, cpu in
              [("decode", 8.0), ("read the cache", 1.0), ("augment", 2.0), ("collate", 0.5)]]  # fmt: skip
    assert InputFindings({}, {"cached": True}, stages).cpu_seconds == 3.5
    assert InputFindings({}, {"cached": False}, [stages[0], *stages[2:]]).cpu_seconds == 10.5
    assert LoaderTimes(1, [0.1, 0.5, 0.2]).rate == 5
    assert input_path._rates([0.5]) == "2.0 [2.0, 2.0]"


def test_what_cannot_be_done_is_refused(make_camvid: MakeCamVid, monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"data.root={make_camvid()}"
    with pytest.raises(ConfigError, match="data=camvd: did you mean camvid"):
        call(["data=camvd"], monkeypatch)
    with pytest.raises(DataError, match="no such folder"):
        call(["data=camvid", "data.root=nowhere"], monkeypatch)
    with pytest.raises(BenchError, match="--json: the folder"):
        call(["data=camvid", root, "--json", "nowhere/found.json"], monkeypatch)
    for wrong in (["--workers", "-1"], ["--need", "0"], ["--seconds", "nan"]):
        with pytest.raises(SystemExit):
            call(["data=camvid", root, *wrong], monkeypatch)
