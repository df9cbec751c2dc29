"""Runs that are of one setting, though the files of one alone do not tell, and runs that are not."""

from pathlib import Path

import pytest
from _helpers.fake_runs import change, write_run

from hemnet.report.collect import collect
from hemnet.report.groups import Group, Section, sections
from hemnet.report.lost_runs import AMBIGUOUS

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


def fixed(folder: Path) -> list[tuple[str | None, list[int]]]:
    """Return the seed of the data and the seeds of each group."""
    return [(each.settings.get("data.seed"), [*group.runs]) for each in made(folder) for group in each.groups]


def test_a_run_that_failed_tears_no_sweep_apart(tmp_path: Path) -> None:
    """A pilot in the order of its own seed, which never had a score."""
    for seed in range(4):
        write_run(tmp_path / f"{seed}", HEM, seed=seed, keys={"data.seed": 0})
    pilot = {"model.head.iterations": 1}
    write_run(tmp_path / "pilot", HEM, seed=1, status="failed", error="OutOfMemory", keys=pilot)
    assert fixed(tmp_path) == [("0", [0, 1, 2, 3])]


def test_two_orders_of_the_data_beside_the_own_order_part_no_heads(tmp_path: Path) -> None:
    """The orders are of other seeds than those whose data have the order of their own seed."""
    for head in (EM, HEM, ("model/head=fcn",)):
        for seed in range(2):
            write_run(tmp_path / f"own{head[0][11:]}{seed}", head, seed=seed)
            for other in (2, 3) if head != ("model/head=fcn",) else ():
                keys = {"data.seed": seed}
                write_run(tmp_path / f"{seed}{head[0][11:]}{other}", head, seed=other, keys=keys)
    assert sorted(fixed(tmp_path), key=str) == [
        *[("0", [2, 3])] * 2, *[("1", [2, 3])] * 2, *[(None, [0, 1])] * 3,
    ]  # fmt: skip


def test_every_order_of_the_data_with_every_seed_is_one_setting_each(tmp_path: Path) -> None:
    for seed in range(3):
        for order in range(3):
            write_run(tmp_path / f"{seed}{order}", HEM, seed=seed, keys={"data.seed": order})
    assert sorted(fixed(tmp_path), key=str) == [(str(order), [0, 1, 2]) for order in range(3)]


@pytest.mark.parametrize("heads", [{}, {"model/head=emanet": 8}])
def test_a_head_that_ran_at_that_t_alone_is_of_the_sweep_that_fixes_it(tmp_path: Path, heads: dict) -> None:
    runs = [(head[0], T) for head in (EM, HEM) for T in (3, 8)] + [*heads.items()]
    for head, T in runs:
        keys = {"model.head.iterations": T, "model.head.iterations_eval": 8}
        write_run(tmp_path / f"{head[11:]}{T}", (head,), keys=keys)
    assert {group.rest.get("model.head.iterations_eval") for group in groups(tmp_path)} == {"8"}


@pytest.mark.parametrize("seed", [0, 2])
def test_a_killed_run_of_a_sweep_that_fixes_a_key_is_lost_to_it(tmp_path: Path, seed: int) -> None:
    """Also if its value is the usual one, and its number of processes is not known."""
    keys = {"trainer.accelerator": "gpu", "trainer.devices": "auto", "data.seed": 0}
    for each in range(4):
        path = write_run(tmp_path / f"{each}", HEM, seed=each, keys=keys)
        if each == seed:
            (path / "result.json").unlink()
        else:
            change(path / "result.json", "processes", 1)
    (group,) = groups(tmp_path)
    assert group.lost_seeds == [seed]


def test_a_killed_run_that_may_be_of_two_settings_is_lost_to_none_and_says_so(tmp_path: Path) -> None:
    for processes in (1, 2):
        path = write_run(tmp_path / f"on{processes}", HEM, keys=ON_GPUS)
        change(path / "result.json", "processes", processes)
    write_run(tmp_path / "killed", HEM, seed=1, status=None, keys=ON_GPUS)
    records, _ = collect([tmp_path])
    found = [group.lost_seeds for section in sections(records) for group in section.groups]
    assert found == [[], []]
    (killed,) = [record for record in records if record.path.name == "killed"]
    assert killed.doubts == [AMBIGUOUS]


def test_a_killed_run_is_of_the_data_at_its_path(tmp_path: Path) -> None:
    for place, pixels in (("/d0/camvid", {"red": 5}), ("/d1/camvid", {"red": 6})):
        keys = {**OF_A_FOLDER, "data.root": place}
        write_run(tmp_path / place[1:3], HEM, keys=keys, pixels=pixels)
    keys = {**OF_A_FOLDER, "data.root": "/d1/camvid"}
    write_run(tmp_path / "killed", HEM, seed=3, status=None, keys=keys)
    lost_to = {group.runs[0].path.name: group.lost_seeds for group in groups(tmp_path)}
    assert lost_to == {"d0": [], "d1": [3]}


def test_of_two_killed_runs_each_is_lost_to_its_own(tmp_path: Path) -> None:
    for seed, together, status in ((0, True, "finished"), (3, True, None), (4, False, None)):
        keys = {**ON_GPUS, "trainer.sync_batchnorm": together}
        path = write_run(tmp_path / f"{seed}", HEM, seed=seed, status=status, keys=keys)
        if status:
            change(path / "result.json", "processes", 2)
    (group,) = groups(tmp_path)
    assert group.lost_seeds == [3]


def test_a_trial_on_one_batch_is_no_lost_seed(tmp_path: Path) -> None:
    write_run(tmp_path / "whole", HEM)
    trial = {"trainer.limit_train_batches": 1}
    write_run(tmp_path / "trial", HEM, seed=7, status="failed", error="RuntimeError", keys=trial)
    assert [group.lost_seeds for group in groups(tmp_path)] == [[]]
