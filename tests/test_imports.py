"""The import rule: each room imports only those below it, and few may know hydra, omegaconf or wandb."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "hemnet"
# From the ground up; a room may import those of the floors below, and itself.
FLOORS = (
    {"errors", "lab", "wording"},
    {"em", "storage", "processes"},
    {"nets", "data", "runs"},
    {"figures", "training", "loggers"},
    {"callbacks", "config"},
    {"sweeps"},
    {"report", "bench"},
    {"using", "planning"},
    {"explore"},
    {"init", "train", "evaluate", "predict", "export", "cost", "search", "datasets", "__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# What only some may import: package to files or rooms.
ONLY = {
    "hydra": {"config", "sweeps", "train"},
    "omegaconf": {"config", "runs", "sweeps", "report", "using", "explore", "train", "search"},
    "wandb": {"loggers"},
    "wandb_workspaces": {"report/dashboards.py"},
    "triton": {f"em/engine/triton_{name}.py" for name in ("kernels", "launch", "limits", "passes", "steps")},
}
# File names that two rooms have, each with a content of its own that the folder tells. All others occur once.
SHARED_NAMES = {
    "choose.py": "which engine, which gradient mode: the same question about the folder's subject",
    "flops.py": "the operations of em's operators, those of a whole network",
    "gradient_flow.py": "the callback that logs it, the chapter that shows what was logged",
    "heads.py": "the heads, the chapter that compares them",
    "training.py": "not the room training/: the chapter on learning curves",
    "transforms.py": "of functions in em/ (torch.func), of samples in data/",
}
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")
# By this name users call the door `hemnet.datasets`.
FILES.remove(SOURCE / "data" / "__main__.py")


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = [f"hemnet.{alias.name}" for alias in node.names] if node.module == "hemnet" else []
            names += inner or [node.module or ""]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downwards(path: Path) -> None:
    own = room(path)
    for name in imported(path):
        package, *rest = name.split(".")
        if package == "hemnet" and rest and rest[0] not in (own, "__version__"):
            assert FLOOR[rest[0]] < FLOOR[own], f"{own} must not import {rest[0]}"
        if package in ONLY:
            assert {own, str(path.relative_to(SOURCE))} & ONLY[package], f"{own} must not import {package}"
        if own == "em":
            assert package in {"hemnet", "torch", "triton"} or package in sys.stdlib_module_names


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in FILES} == set(FLOOR)


def test_the_map_for_newcomers_names_every_room() -> None:
    text = (SOURCE.parents[1] / "CONTRIBUTING.md").read_text()
    named = {word.removesuffix(".py").rstrip("/") for word in text.split("```")[3].split()}
    assert {room for room in FLOOR if (SOURCE / room).is_dir()} <= named
    assert {"train", "evaluate", "search", "errors", "wording"} <= named


def test_a_file_s_name_is_that_of_another_only_where_the_folders_tell_them_apart() -> None:
    rooms = {path.parent for path in FILES} - {SOURCE}
    names = Counter([path.name for path in FILES] + [f"{folder.name}.py" for folder in rooms])
    twice = {name for name, count in names.items() if count > 1 and not name.startswith("__")}
    assert twice == SHARED_NAMES.keys(), "find another name, or say in SHARED_NAMES what tells them apart"


def test_only_the_composition_root_instantiates() -> None:
    assert {path.name for path in FILES if re.search(r"\binstantiate\(", path.read_text())} == {"build.py"}


def test_the_em_library_loads_neither_lightning_nor_hydra() -> None:
    """Nor the project's Triton kernels; torch's FLOP counter loads Triton itself where it is installed."""
    heavy = ("pytorch_lightning", "hydra", "wandb", "cv2", "hemnet.em.engine.triton_kernels")
    script = f"import hemnet.em, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
