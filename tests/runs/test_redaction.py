"""No secret is in the files of a run or a sweep, nor in what they print."""

import io
import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from _helpers import entries
from _helpers.camvid_files import MakeCamVid
from _helpers.tiny import TINY
from _helpers.waiting import within
from _helpers.wandb_files import config, offline_runs, records
from omegaconf import OmegaConf

from hemnet.runs.redaction import REDACTED, learn, redact, redact_argument, redacted, without_secrets

CANARY = "canary"
ENVIRONMENT = {
    "MY_API_TOKEN": "canary-token", "AWS_SECRET_ACCESS_KEY": "canary/aws+key==", "HIDDEN": "canary-variable",
    "DB_PASSWORD": "canary-two\ncanary-lines", "HTTPS_PROXY_OF_OURS": "http://me:canary-proxy@localhost:1",
    "WANDB_API_KEY": "canary-wandb" + "0" * 28,
}  # fmt: skip
SPY = """
import logging
import pytorch_lightning as pl
class Spy(pl.Callback):
    def __init__(self, api_key, address, copy, url, words, pin=None, fails=False):
        self.words = f"{api_key} {address} {copy} {url} {words} {pin}"
        self.fails = fails
    def on_train_start(self, trainer, module):
        logging.getLogger("spy").warning("connecting with %s", self.words)
        print("connecting with", self.words)
        if self.fails:
            raise RuntimeError("cannot connect with " + self.words)
"""
# A key with the name of a secret, a reference to that key, the value of a variable, the value of a variable
# with the name of a secret under another key, and the secrets of URLs.
OVERRIDES = [
    *TINY, "logger=wandb", "trainer.max_epochs=1", "data.root=${oc.env:PLACE}",
    "+callbacks.spy._target_=spy_module.Spy", "+callbacks.spy.api_key=canary-key",
    "+callbacks.spy.copy=${callbacks.spy.api_key}", "+callbacks.spy.address=${oc.env:HIDDEN}",
    "+callbacks.spy.pin=canary-token", "logger.wandb.tags=[canary-token]",
    "+callbacks.spy.url='https://me:canary-pass@host/x?signature=canary-signature'",
    "+callbacks.spy.words=['a canary/aws+key== b',{password:canary-nested}]",
]  # fmt: skip


def run(module: str, root: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "spy_module.py").write_text(SPY)
    modules = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
    environment = ENVIRONMENT | {
        "PLACE": str(root), "OMP_NUM_THREADS": "1", "PYTHONPATH": modules, "HEMNET_PACKAGES": "spy_module",
    }  # fmt: skip
    return entries.call(module, *words, cwd=folder, environment=environment)


def told(path: Path) -> str:
    """The whole content of a file; archives are unpacked, and W&B's records decoded."""
    content = path.read_bytes()
    if path.suffix == ".wandb":
        return "".join(map(str, records(path.parent))) + content.decode(errors="replace")
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content += b"".join(archive.read(name) for name in archive.namelist())
    return content.decode(errors="replace")


def assert_nothing_is_told(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {".wandb", ".ckpt", ".yaml", ".json", ".csv", ".log"} <= {path.suffix for path in files}
    for path in folder.rglob("*"):
        assert CANARY not in str(path.relative_to(folder)), path
    for path in files:
        content = told(path)
        at = content.find(CANARY)
        assert at < 0, f"{path}: {content[max(at - 200, 0) : at + 100]}"


@pytest.mark.slow
def test_no_secret_is_in_any_file_of_a_run_nor_printed(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    root = make_camvid(name="canary-root")
    done = run("hemnet.train", root, tmp_path, *OVERRIDES, "run_dir=run")
    assert done.returncode == 0, done.stderr
    assert "connecting with <redacted>" in done.stdout
    assert CANARY not in done.stdout + done.stderr
    assert_nothing_is_told(tmp_path / "run")
    (offline,) = offline_runs(tmp_path / "run")
    assert config(offline)["callbacks"]["spy"] == {
        "_target_": "spy_module.Spy", "api_key": REDACTED, "copy": REDACTED, "pin": REDACTED,
        "address": "${oc.env:HIDDEN}", "url": f"https://{REDACTED}@host/x?signature={REDACTED}",
        "words": [f"a {REDACTED} b", {"password": REDACTED}],
    }  # fmt: skip
    assert not any(record.HasField("environment") for record in records(offline))

    # Values from the environment are read from it again.
    again = run("hemnet.evaluate", root, tmp_path, "run")
    assert again.returncode == 0, again.stderr
    assert CANARY not in again.stdout + again.stderr
    assert_nothing_is_told(tmp_path / "run")


@pytest.mark.slow
def test_no_secret_is_in_the_error_of_a_run(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    words = [*OVERRIDES, "+callbacks.spy.fails=true", "run_dir=run"]
    done = run("hemnet.train", make_camvid(name="canary-root"), tmp_path, *words)
    assert done.returncode == 1, done.stderr
    assert "RuntimeError: cannot connect with <redacted>" in done.stderr
    assert CANARY not in done.stdout + done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "cannot connect with <redacted>" in result["error"]
    assert "cannot connect with <redacted>" in (tmp_path / "run" / "run.log").read_text()
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or CANARY not in told(path), path


@pytest.mark.slow
def test_no_secret_is_in_any_file_of_a_sweep_nor_printed(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    words = [*OVERRIDES, "hydra.sweep.dir=sweep", "+callbacks.spy.fails=${seed}", "seed=0,1"]
    done = run("hemnet.train", make_camvid(name="canary-root"), tmp_path, "--multirun", *words)
    assert done.returncode == 2, done.stderr
    assert "1 of 2 jobs failed" in done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert_nothing_is_told(tmp_path / "sweep")


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", ["+model.api_key=canary-key", "seed=canary-token", "+callbacks.spy.api_key=[canary-key"]
)
def test_no_secret_is_in_a_complaint_about_the_command_line(wrong: str, tmp_path: Path) -> None:
    done = run("hemnet.train", tmp_path, tmp_path, *OVERRIDES, "run_dir=run", wrong)
    assert done.returncode in (1, 2)
    assert done.stderr
    assert CANARY not in done.stdout + done.stderr
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or CANARY not in told(path), path


def test_what_is_known_is_taken_out_in_every_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    value = 'canary "q" \\ \u00e9/+'
    monkeypatch.setenv("A_SECRET", value)
    learn()
    for text in (value, repr(value), json.dumps(value), "a%22"):
        assert CANARY not in redact(f"x {text} y")
    assert redact("nothing to hide") == "nothing to hide"


def test_short_values_and_names_that_only_look_secret_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "10")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-canary")
    learn()
    assert redact("10 false-canary") == "10 false-canary"
    for word in ("model.tokens=4096", "model={tokens:4096}", "a.b=[x:y]"):
        assert redact_argument(word) == word
    assert redact_argument("+a={password: 'x',b:1}") == "+a={password: '<redacted>',b:1}"
    assert without_secrets({"num_tokens": 12, "password": "1", "a": ["1", 1]}) == {
        "num_tokens": 12, "password": REDACTED, "a": [REDACTED, 1],
    }  # fmt: skip


def test_a_default_is_the_configurations_own_and_so_are_this_projects_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEMNET_RUNS", "canary-runs")
    monkeypatch.setenv("HEMNET_TOKEN", "canary-hemnet-token")
    content = {
        "a": "${oc.env:NOT_SET_AT_ALL,default}",
        "b": "${oc.env:HEMNET_RUNS}",
        "c": "${oc.env:HEMNET_TOKEN}",
    }
    shown = OmegaConf.to_container(redacted(OmegaConf.create(content)), resolve=False)
    assert shown == {"a": "default", "b": "canary-runs", "c": "${oc.env:HEMNET_TOKEN}"}


def test_a_url_loses_user_and_password_whatever_is_in_them() -> None:
    for user in ("me", "me:canary", "me:can@canary", "canary@corp.org:canary"):
        assert redact(f"to http://{user}@host:80/a") == f"to http://{REDACTED}@host:80/a"
    assert redact("from http://host:80/a to b@c") == "from http://host:80/a to b@c"


@pytest.mark.parametrize("unit", ["a", "a:", "token_", "?token", "://a", "://a:", "token ", "'", "@", "a@"])
def test_a_long_text_takes_no_longer_than_its_length(unit: str) -> None:
    with within(60):  # time quadratic in the length would be hours
        for start in ("", "://", "?", "token:"):
            redact_argument(start + unit * (1_000_000 // len(unit)))
