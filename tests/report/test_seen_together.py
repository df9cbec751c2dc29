"""Runs that are of one setting, though the files of one alone do not tell, and runs that are not."""

from pathlib import Path

import pytest
from _helpers.fake_runs import change, write_run

from hemnet.report.collect import collect
from hemnet.report.groups import Group, Section, sections

EM, HEM = ("model/head=em",), ("model/head=hem",)
ON_GPUS = {"trainer.accelerator": "gpu", "trainer.devices": -1, "trainer.sync_batchnorm": True}
OF_A_FOLDER = {f"data.{split}._target_": "hemnet.data.Folder" for split in ("train", "val")}


def made(folder: Path) -> list[Section]:
    return sections(collect([folder])[0])


def groups(folder: Path) -> list[Group]:
    return [group for section in made(folder) for group in section.groups]


def lost(folder: Path) -> dict[str, list[int]]:
    return {str(section.settings.get("data.batch_size")) + section.settings.get("data.root", ""):
            section.groups[0].lost_seeds for section in made(folder)}  # fmt: skip


@pytest.mark.parametrize(
    ("batch", "together", "found"),
    [(4, True, [10, 11]), (16, True, []), (3, True, []), (5, True, []), (4, False, [])],
)
def test_killed_runs_on_all_gpus_are_lost_to_runs_of_their_batch_size_per_process(
    tmp_path: Path, batch: int, together: bool, found: list[int]
) -> None:
    """Whatever the number of processes of the finished ones was; of 16 images each they would be others."""
    for seed in range(3):
        path = write_run(tmp_path / f"whole{seed}", HEM, seed=seed, keys={**ON_GPUS, "data.batch_size": 4})
        change(path / "result.json", "processes", 4)
    for seed in (10, 11):
        keys = {**ON_GPUS, "data.batch_size": batch, "trainer.sync_batchnorm": together}
        write_run(tmp_path / f"killed{seed}", HEM, seed=seed, status=None, keys=keys)
    assert lost(tmp_path) == {"16": found}


def test_killed_runs_on_one_folder_are_not_lost_to_runs_on_another(tmp_path: Path) -> None:
    """Though nobody knows on which images in that folder they were, it was not the other."""
    for seed in range(2):
        for name, root, head, pixels in (
            ("older", "/data/a", EM, {"red": 5}), ("newer", "/data/a", EM, {"red": 6}),
            ("other", "/data/b", HEM, {"red": 9}),
        ):  # fmt: skip
            keys = {**OF_A_FOLDER, "data.root": root}
            write_run(tmp_path / f"{name}{seed}", head, seed=seed, keys=keys, pixels=pixels)
        keys = {**OF_A_FOLDER, "data.root": "/data/a"}
        write_run(tmp_path / f"killed{seed}", HEM, seed=10 + seed, status=None, keys=keys)
    assert [group.lost_seeds for group in groups(tmp_path)] == [[], [], []]


def test_a_failed_run_whose_images_are_known_is_not_lost_to_runs_on_others(tmp_path: Path) -> None:
    keys = {**OF_A_FOLDER, "data.root": "/data/a"}
    write_run(tmp_path / "whole", HEM, keys=keys, pixels={"red": 5})
    write_run(tmp_path / "failed", HEM, seed=1, status="failed", keys=keys, pixels={"red": 6})
    assert [group.lost_seeds for group in groups(tmp_path)] == [[]]


@pytest.mark.parametrize("heads", [(EM, HEM), (HEM,)])
def test_one_order_of_the_data_for_every_seed_is_one_setting(tmp_path: Path, heads: tuple) -> None:
    """One of the seeds is that of the data, as in runs that have the data in the order of their own seed."""
    for head in heads:
        for seed in range(4):
            write_run(tmp_path / f"{head[0][11:]}{seed}", head, seed=seed, keys={"data.seed": 2})
    (section,) = made(tmp_path)
    assert section.settings["data.seed"] == "2"
    assert [[*group.runs] for group in section.groups] == [[0, 1, 2, 3]] * len(heads)


def test_runs_in_the_order_of_their_own_seeds_stay_together(tmp_path: Path) -> None:
    for seed in range(4):
        write_run(tmp_path / f"own{seed}", HEM, seed=seed)
        if seed != 2:
            write_run(tmp_path / f"fixed{seed}", HEM, seed=seed, keys={"data.seed": 2})
    assert sorted([*group.runs] for group in groups(tmp_path)) == [[0, 1, 2, 3], [0, 1, 3]]


def test_one_t_of_evaluation_for_every_t_is_one_curve(tmp_path: Path) -> None:
    """At T = 3, it is the T of training."""
    for T in (1, 3, 8):
        for head in (EM, HEM):
            keys = {"model.head.iterations": T, "model.head.iterations_eval": 3}
            write_run(tmp_path / f"{head[0][11:]}{T}", head, keys=keys)
    found = groups(tmp_path)
    assert [group.label for group in found] == [
        "em, T=1", "em, T=3", "em, T=8", "hem, T=1, h=0.5", "hem, T=3, h=0.5", "hem, T=8, h=0.5",
    ]  # fmt: skip
    assert len({frozenset(group.rest.items()) for group in found}) == 1


def test_a_sweep_over_t_keeps_its_curve_beside_one_of_another_t_of_evaluation(tmp_path: Path) -> None:
    for T in (1, 3, 8):
        write_run(tmp_path / f"own{T}", HEM, keys={"model.head.iterations": T})
        if T != 3:
            later = {"model.head.iterations": T, "model.head.iterations_eval": 3}
            write_run(tmp_path / f"fixed{T}", HEM, keys=later)
    rest = [(group.iterations, "iterations_eval" in " ".join(group.rest)) for group in groups(tmp_path)]
    assert sorted(rest) == [(1, False), (1, True), (3, False), (8, False), (8, True)]


def test_an_option_that_is_null_is_of_one_setting_with_its_default(tmp_path: Path) -> None:
    for seed, precision in enumerate((None, "32-true", 32)):
        write_run(tmp_path / str(seed), HEM, seed=seed, keys={"trainer.precision": precision})
    write_run(tmp_path / "other", HEM, keys={"trainer.precision": "bf16-mixed"})
    assert sorted((section.label, [*section.groups[0].runs]) for section in made(tmp_path)) == [
        ("precision=32-true", [0, 1, 2]), ("precision=bf16-mixed", [0]),
    ]  # fmt: skip
