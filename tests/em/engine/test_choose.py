"""Which engine is chosen, and what decides it: what can run, what pays, and a trial launch."""

import logging
import sys

import pytest
import torch
from _helpers.fake_cuda import fake_cuda

from hemnet.em import unroll

pytest.importorskip("triton")

from hemnet.em.engine import choose, triton_limits, triton_passes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("x", "mu", "reason"),
    [
        (torch.empty(1, 4, 1025), torch.empty(1, 2, 1025), "1025 channels are more than 1024"),
        (torch.empty(1, 4, 8), torch.empty(1, 257, 8), "257 components are more than 256"),
        (torch.empty(1, 4, 8, dtype=torch.float64), torch.empty(1, 2, 8), "the features are torch.float64"),
        (torch.empty(1, 4, 8), torch.empty(1, 2, 8, dtype=torch.float64), "the means are torch.float64"),
        (torch.empty(1, 0, 8), torch.empty(1, 2, 8), "there are no features"),
    ],
)
def test_why_not(x, mu, reason):
    x, mu = x.to(DEVICE), mu.to(DEVICE)
    assert reason in triton_limits.why_not(x, mu)
    with pytest.raises(RuntimeError, match=reason):
        choose.choose_engine("triton", x, mu)


def test_why_not_on_the_cpu(monkeypatch):
    monkeypatch.setattr(triton_limits, "INTERPRETED", False)
    assert (
        triton_limits.why_not(torch.empty(1, 4, 8), torch.empty(1, 2, 8))
        == "the features are on cpu, not cuda"
    )


@pytest.fixture
def fresh(caplog):
    """Nothing was tried or said before, nor is known to later tests."""
    for cached in (triton_limits.trial, choose._say_once):
        cached.cache_clear()
    caplog.set_level(logging.WARNING, "hemnet.em")
    yield
    for cached in (triton_limits.trial, choose._say_once):
        cached.cache_clear()


def chosen(dtype: torch.dtype, components: int, channels: int, *, tried: bool = False) -> str:
    """The engine that "auto" takes on a GPU."""
    trial = choose._trial
    with fake_cuda(), pytest.MonkeyPatch.context() as patch:
        if tried:
            patch.setattr(choose, "_trial", trial)
        x = torch.empty(1, 100, channels, dtype=dtype, device="cuda")
        mu = torch.empty(1, components, channels, device="cuda")
        return choose.choose_engine("auto", x, mu)


@pytest.mark.parametrize(
    ("dtype", "components", "channels", "engine"),
    [
        (torch.bfloat16, 64, 512, "triton"),  # voc_hem
        (torch.bfloat16, 64, 1024, "triton"),
        (torch.bfloat16, 256, 512, "recompute"),
        (torch.float32, 64, 256, "triton"),
        (torch.float32, 64, 512, "recompute"),
        (torch.float16, 64, 512, "recompute"),
        (torch.float32, 8, 64, "triton"),
        (torch.bfloat16, 256, 256, "triton"),
        (torch.bfloat16, 256, 16, "recompute"),
    ],
)
def test_auto_on_cuda_takes_triton_where_a_pass_repeats_little(
    dtype, components, channels, engine, fresh, caplog
):
    assert chosen(dtype, components, channels) == engine
    assert (f"with {channels} channels, {components} components" in caplog.text) == (engine == "recompute")


def test_auto_on_cuda_says_why_it_does_not_take_triton(fresh, caplog):
    assert chosen(torch.float32, 2, 2000) == "recompute"
    assert "2000 channels are more than 1024" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        PermissionError(13, "Permission denied", "/root/.triton/cache"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 256.00 MiB."),
        ImportError("libcuda.so.1: cannot open shared object file"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_trial_that_fails_is_made_once_and_its_reason_logged(error, fresh, caplog, monkeypatch):
    tried = []

    def fail(*arguments: object) -> None:
        tried.append(arguments)
        raise error

    monkeypatch.setattr(triton_limits, "_try", fail)
    assert [chosen(torch.bfloat16, 8, 64, tried=True) for _ in range(3)] == ["recompute"] * 3
    assert len(tried) == 1
    assert len(caplog.records) == 1
    assert f"a trial of it failed with {type(error).__name__}: {str(error)[:40]}" in caplog.text
    assert chosen(torch.bfloat16, 16, 64, tried=True) == "recompute"
    assert len(tried) == 2, "another problem is another trial"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_trial_launches_every_kernel(dtype, weighted, fresh, monkeypatch):
    launched = []
    launch = triton_passes.launch

    def note(kernel, *arguments, **options):
        launched.append(kernel.__name__)
        launch(kernel, *arguments, **options)

    monkeypatch.setattr(triton_passes, "launch", note)
    assert triton_limits.trial(torch.device(DEVICE), dtype, 3, 20, weighted) is None
    assert set(launched) == {"gather", "scatter", "newton_step", "factors", "add_back"}


def test_a_trial_that_fails_in_a_kernel_says_so(fresh, monkeypatch):
    monkeypatch.setattr(triton_passes, "gather", None)
    assert triton_limits.trial(CPU, torch.float32, 3, 20, False).startswith(
        "a trial of it failed with TypeError"
    )


def test_an_engine_asked_for_by_name_is_not_tried(fresh, monkeypatch):
    monkeypatch.setattr(triton_limits, "_try", lambda *_: pytest.fail("tried"))
    x, mu = torch.randn(1, 9, 4, device=DEVICE), torch.randn(1, 2, 4, device=DEVICE)
    assert unroll(x, mu, iterations=1, engine="triton").engine == "triton"


def test_torch_compile_bakes_the_trial_in(fresh, monkeypatch):
    monkeypatch.setattr(triton_limits, "_try", lambda *_: None)

    def choice(x: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
        return x + (0 if choose._why_not_triton(x, mu, False, asked=False) else 1)

    x, mu = torch.zeros(1, 9, 4, device=DEVICE), torch.zeros(1, 2, 4, device=DEVICE)
    assert torch.compile(choice, fullgraph=True, backend="eager")(x, mu).eq(1).all()


def test_an_old_triton_is_refused(monkeypatch):
    x, mu = torch.empty(1, 4, 8, device=DEVICE), torch.empty(1, 2, 8, device=DEVICE)
    assert triton_limits.why_not(x, mu) is None
    monkeypatch.setattr(triton_limits.triton, "__version__", "3.2.0")
    assert triton_limits.why_not(x, mu) == "Triton 3.2.0 is older than 3.4"


@pytest.mark.parametrize("error", [ImportError("No module named 'triton'"), RuntimeError("0 active drivers")])
def test_a_triton_that_cannot_be_imported_is_no_error(error, fresh, caplog, monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "hemnet.em.engine.triton_limits":
                raise error

    monkeypatch.delitem(sys.modules, "hemnet.em.engine.triton_limits")
    monkeypatch.delattr("hemnet.em.engine.triton_limits")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert chosen(torch.float32, 8, 64) == "recompute"
    assert f"Triton cannot be imported ({type(error).__name__}: {error})" in caplog.text


def test_auto_on_the_cpu_is_recompute():
    assert choose.choose_engine("auto", torch.empty(1, 4, 8), torch.empty(1, 2, 8)) == "recompute"
