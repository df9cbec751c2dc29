"""The settings of a run, and that W&B averages the runs that the report averages."""

from collections import defaultdict
from inspect import signature
from pathlib import Path

import torch
from _helpers.fake_runs import write_run

from hemnet.report.collect import collect
from hemnet.report.groups import sections
from hemnet.runs.canonical import text
from hemnet.runs.run import ENVIRONMENT, EXTENDED, RESULT, Run
from hemnet.runs.run_settings import OPTIMIZER_DEFAULTS, columns
from hemnet.storage.files import read_json, write_json

VARIANTS = [
    ["model/head=hem"], ["model/head=em"], ["model/head=emanet"], ["model/head=fcn"],
    ["model.head.iterations=8"], ["model.head.highway_scale=0.9"], ["model.head.num_components=7"],
    ["model.head.correct_momentum=true"], ["model.head.gradient=detached"], ["model.head.variance=1.0"],
    ["optim.optimizer.lr=0.5"], ["data.batch_size=2"], ["+data.root=/a/dogs"], ["trainer.max_epochs=3"],
    ["trainer.precision=64-true"], ["task.compile=true"],
]  # fmt: skip
PLACED = [
    ["data.num_workers=1"], ["trainer.log_every_n_steps=3"], ["data.eval_batch_size=1"],
    ["callbacks.gradient_flow.every_n_steps=7"], ["+data.root=/b/Dogs"], ["inference.flip=true"],
]  # fmt: skip

EXTENSION = {"step": 3, "before": {"trainer.max_steps": 3}}


def test_wandb_averages_the_runs_that_the_report_averages(tmp_path: Path) -> None:
    """A seed of its own for each run, since of two with one seed the report counts the later alone."""
    every = [[], *VARIANTS, *PLACED]
    for i, overrides in enumerate(every):
        write_run(tmp_path / str(i), overrides, seed=i)
    made = sections(collect([tmp_path])[0])
    page = {frozenset(group.runs) for section in made for group in section.groups}
    wandb = defaultdict(set)
    for i in range(len(every)):
        wandb[columns(Run.open(tmp_path / str(i)).config)["setting"]].add(i)
    assert page == {frozenset(seeds) for seeds in wandb.values()}
    assert len(page) == len(VARIANTS)  # hem is the recipe itself, and what differs in its place is no setting


def test_wandb_averages_extended_runs_apart_as_the_report_does(tmp_path: Path) -> None:
    """Whatever a run was extended from; alike if it was from the same."""
    every = [[], [], [EXTENSION], [EXTENSION], [EXTENSION, EXTENSION | {"step": 5}]]
    for i, extended in enumerate(every):
        path = write_run(tmp_path / str(i), seed=i)
        about = read_json(path / ENVIRONMENT)
        write_json(path / ENVIRONMENT, about | ({EXTENDED: extended} if extended else {}))
    page = {frozenset(group.runs) for section in sections(collect([tmp_path])[0]) for group in section.groups}
    wandb = defaultdict(set)
    for i, extended in enumerate(every):
        wandb[columns(Run.open(tmp_path / str(i)).config, extended)["setting"]].add(i)
    assert page == {frozenset(seeds) for seeds in wandb.values()} == {
        frozenset({0, 1}), frozenset({2, 3}), frozenset({4})
    }  # fmt: skip


def test_runs_on_all_devices_of_machines_of_several_sizes_are_told_apart(tmp_path: Path) -> None:
    """By the number of processes that each recorded; of what recorded none, nobody knows its batches."""
    every: list[tuple[object, int | None]] = [(-1, 2), (-1, 8), (8, 8), (8, None), ("auto", 8), (-1, None)]
    for i, (devices, processes) in enumerate(every):
        keys = {"trainer.devices": devices, "trainer.accelerator": "gpu"}
        path = write_run(tmp_path / str(i), seed=i, keys=keys)
        if processes is not None:
            write_json(path / RESULT, read_json(path / RESULT) | {"processes": processes})
    page = {frozenset(group.runs) for section in sections(collect([tmp_path])[0]) for group in section.groups}
    wandb = defaultdict(set)
    for i, (_, processes) in enumerate(every):
        wandb[columns(Run.open(tmp_path / str(i)).config, (), processes)["setting"]].add(i)
    apart = {frozenset({0}), frozenset({1, 2, 3, 4}), frozenset({5})}
    assert page == apart == {frozenset(seeds) for seeds in wandb.values()}


def test_all_devices_of_a_processor_are_one(tmp_path: Path) -> None:
    for i, devices in enumerate((1, "auto", -1)):
        write_run(tmp_path / str(i), seed=i, keys={"trainer.devices": devices})
    (section,) = sections(collect([tmp_path])[0])
    assert [[*group.runs] for group in section.groups] == [[0, 1, 2]]


SAME = [
    [], ["model.head.variance=8"], ["model.head.variance=8.0"],  # the root of 64 channels
    ["+optim.optimizer.eps=1e-8"], ["trainer.plugins=null"], ["~model.backbone.activation_checkpointing"],
]  # fmt: skip


def test_equal_values_that_are_written_in_several_ways_are_one_setting(tmp_path: Path) -> None:
    for i, overrides in enumerate(SAME):
        write_run(tmp_path / str(i), overrides, seed=i)
    for i, variance in enumerate((1, 1.0), len(SAME)):
        write_run(tmp_path / str(i), seed=i, keys={"model.head.variance": variance})
    page = [{*group.runs} for section in sections(collect([tmp_path])[0]) for group in section.groups]
    wandb = defaultdict(set)
    for i in range(len(SAME) + 2):
        wandb[columns(Run.open(tmp_path / str(i)).config)["setting"]].add(i)
    assert sorted(page, key=min) == sorted(wandb.values(), key=min)
    assert sorted(page, key=min) == [{*range(len(SAME))}, {len(SAME), len(SAME) + 1}]


def test_what_torchs_optimizers_take_is_known() -> None:
    for name, known in OPTIMIZER_DEFAULTS.items():
        own = signature(getattr(torch.optim, name.removeprefix("torch."))).parameters
        assert known == {key: text(own[key].default) for key in known}


def test_a_path_in_the_folder_of_its_run_makes_no_setting(tmp_path: Path) -> None:
    for i in range(3):
        run = tmp_path / "old" / str(i)
        keys = {"callbacks.mine": {"_target_": "mine.SaveMasks", "folder": f"{run}/masks"}}
        write_run(run, seed=i, keys=keys)
    (tmp_path / "old/2").rename(tmp_path / "moved")
    ((group,),) = [section.groups for section in sections(collect([tmp_path])[0])]
    assert group.runs.keys() == {0, 1, 2}
    assert Run.open(tmp_path / "moved").config.callbacks.mine.folder == f"{tmp_path}/moved/masks"
    settings = {
        columns(Run.open(path).config)["setting"] for path in (tmp_path / "old/0", tmp_path / "moved")
    }
    assert len(settings) == 1
