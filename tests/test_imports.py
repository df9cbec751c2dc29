"""The import rule: each unit imports only units below it, and few may know hydra, omegaconf or wandb."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "hemnet"
# Each unit may import those of lower rank, and its own package.
RANK = {
    "errors": -1,
    "files": -1,
    "ranks": 0,
    "processes": 0,
    "interruption": 0,
    "checkpoints": 0,
    "launch": 1,
    "download": 0,
    "em": 1,
    "data": 1,
    "nets": 2,
    "metrics": 2,
    "optim": 2,
    "inference": 2,
    "figures": 2,
    "em_figures": 2,
    "flops": 3,
    "task": 3,
    "callbacks": 4,
    "runs": 4,
    "check": 4,
    "identity": 3,
    "redaction": 2,
    "provenance": 3,
    "records": 1,
    "evaluations": 5,
    "sweeps": 5,
    "compose": 5,
    "cli": 6,
    "train": 7,
    "search": 7,
    "evaluate_runs": 7,
    "evaluate": 8,
    "cost": 7,
    "predict": 7,
    "export": 7,
    "bench": 7,
    "report": 7,
    "data.__main__": 7,
}
CONFIGURED = {
    "check", "compose", "identity", "redaction", "runs", "sweeps", "search", "cli",
    "train", "evaluate", "evaluate_runs", "predict", "cost", "export", "report", "data.__main__",
}  # fmt: skip
# Optional, so only these import it, and they only on demand.
TRITON = {"triton.py", "triton_kernels.py"}
WANDB = {"wandb_run.py", "wandb_guard.py", "wandb.py"}
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem != "__init__")


def unit(path: Path) -> str:
    if path == SOURCE / "data" / "__main__.py":
        return "data.__main__"  # an entry by the name that users call, not a part of the package
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # "from hemnet import x" takes a module too
            inner = [f"hemnet.{alias.name}" for alias in node.names] if node.module == "hemnet" else []
            names += inner or [node.module or ""]
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downwards(path: Path) -> None:
    own = unit(path)
    for name in imported(path):
        package, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if package == "hemnet" and other and other != own:
            assert RANK[other] < RANK[own], f"{own} must not import {other}"
        if package in ("hydra", "omegaconf"):
            assert own in CONFIGURED, f"{own} must not import {package}"
        if package in ("wandb", "wandb_workspaces"):
            assert path.name in WANDB
        if own == "em":
            allowed = {"hemnet", "torch", "triton"} if path.name in TRITON else {"hemnet", "torch"}
            assert package in allowed or package in sys.stdlib_module_names


def test_every_module_has_a_rank() -> None:
    assert {unit(path) for path in MODULES} == set(RANK)


def test_only_compose_instantiates() -> None:
    users = {path.name for path in MODULES if "instantiate" in path.read_text()}
    assert users == {"compose.py"}


def test_the_em_library_loads_neither_lightning_nor_hydra_nor_triton() -> None:
    heavy = ("pytorch_lightning", "hydra", "wandb", "cv2", "triton")
    script = f"import hemnet.em, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
