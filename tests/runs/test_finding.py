"""Which run directories are found in folders."""

from pathlib import Path

import pytest

from hemnet.errors import HemnetError
from hemnet.runs.finding import find_runs


def run(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").touch()
    return path


def test_runs_behind_links_are_found_once_and_by_their_own_path_if_that_lies_in_the_folder(
    tmp_path: Path,
) -> None:
    here = tmp_path / "runs"
    a, z = run(here / "a"), run(here / "z/1")
    run(tmp_path / "disk/sweep/b")
    (here / "elsewhere").symlink_to(tmp_path / "disk")
    (here / "again").symlink_to(tmp_path / "disk/sweep")
    (here / "latest").symlink_to(z)
    (tmp_path / "disk/back").symlink_to(here)  # a circle
    (here / "nowhere").symlink_to(tmp_path / "gone")
    assert find_runs([here]) == [a, here / "again/b", z]
    assert find_runs([here, here / "z", here / "latest"]) == [a, here / "again/b", z]
    assert find_runs([here / "latest"]) == [z]


def test_what_lies_inside_a_run_and_what_is_hidden_or_of_wandb_is_no_run(tmp_path: Path) -> None:
    a = run(tmp_path / "a")
    for inner in ("a/evaluation/x", "a/checkpoints/x", ".hidden", "wandb/offline-run-1"):
        run(tmp_path / inner)
    nested = run(tmp_path / "a/nested")
    assert find_runs([tmp_path]) == [a, nested]


def test_several_sets_of_names_may_mark_a_run(tmp_path: Path) -> None:
    for name, files in {"a": "x", "b": "yz", "c": "y", "d": "xyz", "e": ""}.items():
        for file in files:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).touch()
    found = find_runs([tmp_path], (("x",), ("y", "z")))
    assert [path.name for path in found] == ["a", "b", "d"]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(HemnetError, match="none is no folder: name run directories"):
        find_runs([tmp_path, tmp_path / "none"])
