"""The W&B dashboard, sent to a server on this machine, and the ready W&B sweep."""

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from _helpers.tiny import call
from _helpers.waiting import BOUND
from _helpers.wandb_files import config, history, offline_runs, summary
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from hemnet.config.compose import load
from hemnet.config.paths import EXPERIMENTS
from hemnet.errors import HemnetError
from hemnet.report import dashboards as report

PROJECT = {
    "id": "1", "name": "p", "entityName": "e", "createdAt": "2026-01-01T00:00:00", "isBenchmark": False,
    "user": None,
}  # fmt: skip


def panels(spec: dict[str, Any]) -> list[dict[str, Any]]:
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    return [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]


class GraphQL(http.server.BaseHTTPRequestHandler):
    """Answers what saving a report asks of W&B, and keeps the saved views."""

    saved: list[dict[str, Any]]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        request = json.loads(body or b"{}")
        query, data = request.get("query", ""), {}
        if "upsertView" in query:
            given = request["variables"]
            self.saved.append(given)
            view = {k: given[k] for k in ("name", "displayName", "description", "spec", "type")}
            view |= {"id": "Vmlldzox", "project": PROJECT, "updatedAt": "2026-01-01T00:00:00"}
            data = {"upsertView": {"view": view, "inserted": True}}
        elif "viewer" in query:
            teams = {"edges": []}
            data = {
                "viewer": {
                    "id": "1",
                    "entity": "e",
                    "username": "u",
                    "email": "",
                    "flags": "{}",
                    "teams": teams,
                }
            }
        elif "models" in query:
            end = {"endCursor": "a", "hasNextPage": False}
            data = {"models": {"edges": [{"node": PROJECT, "cursor": "a"}], "pageInfo": end}}
        answer = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@contextmanager
def graphql() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    handler = type("Bound", (GraphQL,), {"saved": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.saved
        server.shutdown()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment with a key; a test adds the server."""
    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    return monkeypatch


def test_what_would_be_sent_is_written_without_a_server(tmp_path: Path) -> None:
    path = tmp_path / "dashboard.json"
    report.main(["--entity", "e", "--project", "p", "--sweep", "unroll_depth", "--json", str(path)])
    sent = json.loads(path.read_text())
    assert (sent["entityName"], sent["projectName"], sent["type"]) == ("e", "p", "runs")
    drawn = [panel["config"] for panel in panels(sent["spec"])]
    keys = {axis for c in drawn for axis in (c.get("yAxis"), *c.get("metrics", ()), *c.get("mediaKeys", ()))}
    assert keys >= {
        "summary:val/miou", "val/miou", "gradient/backbone/all", "start/gradient/share", "end/gradient/means",
        "middle/em/log_likelihood", "cost/seconds_per_step", "cost/gflops", "val/predictions", "em/attention",
    }  # fmt: skip
    grouped = {c.get("groupBy") for c in drawn}
    assert grouped == {None, "setting.value"}  # nothing is averaged over T, h or recipes
    scatters = {(c["xAxis"], c["yAxis"]) for c in drawn if "yAxis" in c}
    assert scatters >= {("config:T.value", "summary:val/miou"), ("config:T.value", "config:h.value")}


@pytest.mark.slow
def test_every_panel_draws_what_a_run_logs(tmp_path: Path) -> None:
    """The names in the panels are held against those in the file that W&B gets from a run."""
    quick = [
        "experiment=synthetic_hem", "logger=wandb", "trainer.precision=32-true", "model.backbone.width=4",
        "data.train.size=32", "data.train.length=8", "data.val.length=4", "trainer.log_every_n_steps=1",
        "callbacks.gradient_flow.every_n_steps=1", "trainer.max_epochs=3",
    ]  # fmt: skip
    run_dir = tmp_path / "run"
    done = call("hemnet.train", *quick, f"run_dir={run_dir}", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = offline_runs(run_dir)
    rows = history(run)
    logged = {key.removesuffix("/_type") for row in rows for key in row} | set(summary(run))
    columns = config(run)
    report.main(["--json", str(tmp_path / "dashboard.json")])
    found = panels(json.loads((tmp_path / "dashboard.json").read_text())["spec"])
    for panel in (panel["config"] for panel in found):
        axes = [panel.get(axis) for axis in ("xAxis", "yAxis", "zAxis")] + [
            *panel.get("metrics", ()),
            *panel.get("mediaKeys", ()),
        ]
        for axis in filter(None, axes):
            kind, _, name = axis.rpartition(":")
            known = columns if kind == "config" else logged
            assert any(k == name.removesuffix(".value") or k.startswith(f"{name}/") for k in known), axis
        if panel.get("groupBy"):
            assert panel["groupBy"].removesuffix(".value") in columns
    over = [p["config"] for p in found if p["config"].get("xAxis") == "em/iteration"]
    assert {p["metrics"][0] for p in over} >= {
        f"{phase}/gradient/share" for phase in ("start", "middle", "end")
    } | {"end/em/log_likelihood"}


def test_without_an_entity_nothing_is_sent() -> None:
    with pytest.raises(HemnetError, match="--entity is missing"):
        report.main([])


def test_a_sweep_and_the_two_methods_are_filters(tmp_path: Path) -> None:
    def filters(*options: str) -> list[set[tuple[str, str]]]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        report.main(["--entity", "e", *options, "--json", str(path)])
        if "depths" in options:
            with pytest.raises(HemnetError, match=r"0\.json was made with displayName .*another --json"):
                report.main(["--entity", "e", "--sweep", "other", "--json", str(path)])
        blocks = json.loads(path.read_text())["spec"]["blocks"]
        sets = [s for block in blocks if block["type"] == "panel-grid" for s in block["metadata"]["runSets"]]
        return [{(f["key"]["name"], str(f["value"])) for f in s["filters"]["filters"]} for s in sets]

    every = filters("--sweep", "depths")
    assert {("head", "em"), ("head", "hem")} <= set().union(*every)
    assert all(("sweep", "depths") in found for found in every)
    assert all(("experiment", "voc_hem") in found for found in filters("--experiment", "voc_hem"))
    assert {"state", "tags"} in [{name for name, _ in found} for found in filters()]
    for name in ("a' or State = 'finished", "lr=3", "a<b"):
        with pytest.raises(HemnetError, match="no name for --sweep"):
            filters("--sweep", name)


def test_runs_that_the_page_does_not_count_are_left_out() -> None:
    for block in report.payload(report.dashboard("e", "p"))["spec"]["blocks"]:
        for runs in block.get("metadata", {}).get("runSets", ()) if block["type"] == "panel-grid" else ():
            found = {f["key"]["name"]: (f["op"], f["value"]) for f in runs["filters"]["filters"]}
            assert found["state"] == ("=", "finished")
            assert found["tags"] == ("NIN", ["debug"])


def test_emanet_does_not_lie_among_the_points_of_plain_em() -> None:
    blocks = report.payload(report.dashboard("e", "p"))["spec"]["blocks"]
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    over = [
        grid for grid in grids
        if any("T of training" in str(panel) for panel in grid["panelBankSectionConfig"]["panels"])
    ]  # fmt: skip
    assert [[runs["name"] for runs in grid["runSets"]] for grid in over] == [["em", "hem"]]


def test_panels_do_not_overlap() -> None:
    blocks = report.payload(report.dashboard("e", "p"))["spec"]["blocks"]
    for block in blocks:
        if block["type"] == "panel-grid":
            places = [p["layout"] for p in block["metadata"]["panelBankSectionConfig"]["panels"]]
            cells = [
                (x, y)
                for at in places
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            ]
            assert len(cells) == len(set(cells))
            assert max(x for x, _ in cells) < 24


def test_the_server_gets_the_panels(online: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with graphql() as (url, saved), caplog.at_level("INFO", "hemnet"):
        online.setenv("WANDB_BASE_URL", url)
        report.main(["--entity", "e", "--project", "p", "--sweep", "depths"])
    (view,) = saved
    assert (view["entityName"], view["projectName"]) == ("e", "p")
    expected = report.payload(report.dashboard("e", "p", "depths"))
    titles = [panel["config"].get("chartTitle") for panel in panels(json.loads(view["spec"]))]
    assert titles == [panel["config"].get("chartTitle") for panel in panels(expected["spec"])]
    assert "e/p/reports/" in caplog.text


def test_without_key_or_server_the_message_is_clear_and_soon(online: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        online.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(HemnetError, match=r"cannot be reached.*--json FILE"):
            report.main(["--entity", "e"])
    online.delenv("WANDB_API_KEY")
    wandb.teardown()  # it reads the environment once
    with pytest.raises(HemnetError, match=r"no API key.*--json FILE"):
        report.main(["--entity", "e"])
    assert time.monotonic() - started < BOUND  # W&B itself would try for minutes


def test_a_server_that_never_answers_is_given_up_on(online: pytest.MonkeyPatch) -> None:
    online.setattr(report, "SAVE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        online.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(HemnetError, match=r"no answer within 3 s|timed out"):
            report.main(["--entity", "e"])
        online.setattr(report, "obstacle", lambda: None)  # it falls silent later
        with pytest.raises(HemnetError, match="did not answer in 1 s"):
            report.main(["--entity", "e"])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(HemnetError, match=r"pip install 'hemnet\[dashboards\]'"):
        report.main(["--entity", "e"])


@pytest.mark.parametrize(
    "path", sorted((EXPERIMENTS / "sweeps" / "wandb").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_ready_sweep_is_what_training_takes(path: Path) -> None:
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    sweep = load_sweep_config(str(path))
    assert sweep == yaml.safe_load(path.read_text())
    assert sweep["command"][:4] == ["${env}", "${interpreter}", "-m", "hemnet.train"]
    assert sweep["command"][-1] == "${args_no_hyphens}"
    fixed = sweep["command"][4:-1]
    config = load(fixed)  # keys and values are checked here
    assert config.name == sweep["name"] == path.stem
    assert sweep["metric"] == {"name": "val/miou", "goal": "maximize"}
    for end in (min, max):
        chosen = {
            key: {"value": end(space["values"]) if "values" in space else space[end.__name__]}
            for key, space in sweep["parameters"].items()
        }
        arguments = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
        changed = load([*fixed, *arguments])
        for key, choice in chosen.items():
            node, _, leaf = key.rpartition(".")
            assert leaf in OmegaConf.select(config, node)
            assert OmegaConf.select(changed, key) == choice["value"]


def test_the_command_of_the_report_makes_the_dashboard(tmp_path: Path) -> None:
    path = tmp_path / "dashboard.json"
    command = [sys.executable, "-m", "hemnet.report", "wandb", "--entity", "e", "--project", "p"]
    subprocess.run([*command, "--json", str(path)], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert "start/gradient/means" in path.read_text()


@pytest.mark.parametrize("name", [".", "file/dashboard.json", "n" * 300])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(HemnetError, match=r"cannot write .*: choose another --json"):
        report.main(["--json", str(tmp_path / name)])
    assert (tmp_path / "file").read_text() == "kept"
