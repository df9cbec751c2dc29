"""Fixtures that several test folders share."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch
from _helpers.camvid_files import MakeCamVid, write_camvid
from _helpers.waiting import within

if TYPE_CHECKING:
    from _helpers.browser import Browser

# Set before any test imports wandb or albumentations: tests talk to no server.
os.environ["WANDB_MODE"] = "offline"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
# Triton reads this when it is imported: without a GPU, kernels are interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A shell has what it starts in the background ignore Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: on a shared machine, an example that takes long proves nothing.
hypothesis.settings.register_profile("hemnet", deadline=None)
hypothesis.settings.load_profile("hemnet")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fail a test that hangs: the tests of hostile input use this, each of which takes a second at most."""
    with within(60):
        yield


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that is ``hemnet train WORDS`` in this process."""
    from _helpers.in_process import application  # here, as most tests need none of it

    with application(monkeypatch) as run:
        yield run


@pytest.fixture
def forked_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the jobs of sweeps in this process be forked from one that has imported all they need."""
    from _helpers.in_process import fork_jobs

    fork_jobs(monkeypatch)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Yield a browser without a window to look at pages in; skip where there is none."""
    from _helpers.browser import opened  # here, as most tests need none of it

    yield from opened()


@pytest.fixture
def make_camvid(tmp_path: Path) -> MakeCamVid:
    """Return a function that writes a miniature data set in the layout of CamVid."""

    def make(train: int = 4, val: int = 3, size: tuple[int, int] = (48, 64), name: str = "camvid") -> Path:
        return write_camvid(tmp_path / name, {"train": train, "val": val}, size)

    return make
