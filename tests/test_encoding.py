"""Text is UTF-8 in every file, whatever the locale; a terminal shows the codes of letters that it lacks."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _helpers.waiting import CEILING

from hemnet.config.explain import ConfigError
from hemnet.config.overrides import readable

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "experiments").glob("*.py")])
# Position of `mode`, and of `encoding`, among the arguments of a method or function.
PLACES = {"open": (0, 2), "read_text": (None, 0), "write_text": (None, 1), "fdopen": (1, 3)}


def unencoded(call: ast.Call) -> bool:
    """Return whether a call reads or writes text in the locale's encoding."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
    given = {word.arg: word.value for word in call.keywords}
    if "encoding" in given:
        return False
    if name in ("run", "Popen", "check_output") and {"text", "universal_newlines"} & given.keys():
        return True
    if name not in PLACES:
        return False
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if name == "open" and (
        owner[:1].isupper()
        or "tar" in owner
        or owner in ("os", "zipfile", "tarfile", "gzip", "entry", "archive")
    ):
        return False
    where, encoding = PLACES[name]
    if name == "open" and isinstance(call.func, ast.Name):
        where, encoding = 1, 3
    mode = given.get("mode", call.args[where] if where is not None and len(call.args) > where else None)
    binary = mode is not None and re.search("'[rwax+]*b", ast.unparse(mode)) is not None
    return not binary and len(call.args) <= encoding


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("path.read_text()", True), ("path.read_text('utf-8')", False), ("path.write_text(x)", True),
        ("path.write_text(x, 'utf-8')", False), ("open(p)", True), ("open(p, 'rb')", False),
        ("path.open('w')", True), ("path.open(mode='ab')", False), ("part.open(encoding='utf-8')", False),
        ("subprocess.run(c, text=True)", True), ("subprocess.run(c)", False), ("os.open(p, flags)", False),
    ],
)  # fmt: skip
def test_what_counts_as_text_of_the_locale(line: str, found: bool) -> None:
    assert unencoded(ast.parse(line).body[0].value) == found  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_has_its_encoding(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if unencoded(call)] == []


@pytest.mark.slow
def test_a_run_and_its_evaluation_under_an_ascii_locale(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    place = "Wände 木"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder := tmp_path / place / kind / split).mkdir(parents=True)
            for number in range(2):
                shape = (32, 32, 3) if kind == "images" else (32, 32)
                Image.fromarray(np.full(shape, number, np.uint8)).save(folder / f"ü{number}.png")
    variables = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = ["data=folder", f"data.root=./{place}", 'data.train.classes=["Straße","木"]', "logger=csv",
             "run_dir=./läufe", "model.backbone.width=4", "model.head.channels=8", "model.num_components=2",
             "data.batch_size=2", 'name="Übung"',
             "data.train_transform.crop_size=32", "trainer.max_epochs=1", "data.num_workers=0"]  # fmt: skip
    shown = f"{place}/images/val"
    for command in (["train", *words], ["evaluate", "läufe"], ["predict", "läufe", shown, "--output", "ö"]):
        done = subprocess.run(
            [sys.executable, "-m", f"hemnet.{command[0]}", *command[1:]], cwd=tmp_path, env=variables,
            capture_output=True, stdin=subprocess.DEVNULL, timeout=CEILING, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        assert command[0] == "predict" or b"Stra\\xdfe" in done.stdout
    run = tmp_path / "läufe"
    for table in (run / "metrics.csv", run / "result.json", run / "evaluation" / "last" / "classes.csv"):
        text = table.read_text("utf-8")
        assert "Straße" in text or "Stra\\u00dfe" in text
    assert json.loads((run / "result.json").read_text("utf-8"))["experiment"] == "Übung"
    assert [*(tmp_path / "ö").glob("**/ü0*.png")]


def test_an_argument_that_is_no_text_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.root=\./\\udcff.*write it in UTF-8"):
        readable(["seed=1", "data.root=./" + os.fsdecode(b"\xff")])
