"""Commands as users call them, ``python -m hemnet.NAME ...``, without five seconds of imports for each.

`call` has a process that has imported all that commands need, and done nothing else, fork one that becomes
the command: its own arguments, folder, environment, input and output, its own exit status. What a command is
when it starts from nothing, `start_anew` shows.

This file, run as a program, is that process.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from _helpers.waiting import CEILING

TESTS = str(Path(__file__).parents[1])
COMMANDS = ("hemnet.train", "hemnet.evaluate", "hemnet.predict", "hemnet.datasets")
# What they import once they know what to do.
NEEDED = (
    "albumentations", "torch._dynamo", "hemnet.callbacks.em_convergence", "hemnet.callbacks.finite",
    "hemnet.callbacks.gradient_flow", "hemnet.callbacks.label_check", "hemnet.callbacks.run_record",
    "hemnet.config.build", "hemnet.config.feasible", "hemnet.config.finetune", "hemnet.config.refusals",
    "hemnet.figures.scores", "hemnet.using.evaluation", "hemnet.using.prediction",
)  # fmt: skip


def start_anew(
    *arguments: str, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m ARGUMENTS``."""
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=os.environ | (environment or {}), text=True,
        capture_output=True, stdin=subprocess.DEVNULL, timeout=CEILING, check=False,
    )  # fmt: skip


def call(
    *arguments: str, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Do what `start_anew` does, sooner."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "arguments": arguments, "cwd": str(cwd), "environment": os.environ | (environment or {}),
            "output": folder,
        }  # fmt: skip
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        said = [(Path(folder) / name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(arguments, status, *said)


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "_helpers.entries"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    atexit.register(server.communicate)  # the end of its input is its end
    return server


def _serve() -> dict[str, Any] | None:
    """Fork a process for each request, and return the request in it; return None at the end."""
    for name in (*COMMANDS, *NEEDED):
        importlib.import_module(name)
    gc.freeze()  # else the first collection of each process copies all that was imported
    for line in iter(sys.stdin.readline, ""):
        if not (process := os.fork()):
            return json.loads(line)
        print(_status(process), flush=True)
    return None


def _status(process: int) -> int:
    began = time.monotonic()
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - began > CEILING:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.01)


def _become(arguments: list[str], cwd: str, environment: dict[str, str], output: str) -> None:
    """Be the command from here on."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    module, *rest = arguments
    sys.path.remove(TESTS)
    sys.path[:1] = [cwd, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv, sys.orig_argv = [module, *rest], [sys.executable, "-m", *arguments]
    sys.stdout.flush()
    for number, (name, mode) in enumerate(((os.devnull, "r"), ("stdout", "w"), ("stderr", "w"))):
        with open(os.path.join(output, name), mode) as file:
            os.dup2(file.fileno(), number)
    atexit.register(_be_silent)
    if module in COMMANDS:
        del sys.modules[module]  # Python runs it anew, as "__main__"; and would say that it is there already
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _be_silent() -> None:
    """Say no more: libraries would complain, at the very end, of what was never collected."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
    if given := _serve():
        _become(**given)
    else:
        _be_silent()
