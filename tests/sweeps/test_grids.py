"""Unions of grids: the jobs of a sweep, their order and their names."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from hemnet.config.paths import EXPERIMENTS
from hemnet.errors import HemnetError
from hemnet.runs.identity import job_name
from hemnet.sweeps.grid_sweeper import GridSweeper
from hemnet.sweeps.grids import union

SWEEPS = sorted(path.stem for path in (EXPERIMENTS / "sweeps").glob("*.yaml"))


def jobs(folder: Path, params: dict, grids: dict, *arguments: str) -> list[list[str]]:
    """Return the jobs that a sweep would launch."""
    launched: list[list[str]] = []

    def launch(overrides: list[list[str]], initial_job_idx: int) -> list[SimpleNamespace]:
        placed = ("hydra.sweep.", "resume=auto")
        launched.extend([word for word in job if not word.startswith(placed)] for job in overrides)
        return [SimpleNamespace(return_value=None) for _ in overrides]

    sweeper = GridSweeper(params, grids)
    loader = SimpleNamespace(load_sweep_config=lambda **_: None)
    sweeper.hydra_context = SimpleNamespace(config_loader=loader)
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder), "subdir": "named"}}})
    sweeper.launcher = SimpleNamespace(launch=launch)
    sweeper._require_one_right = lambda jobs: None
    sweeper.sweep(list(arguments))
    assert (folder / "multirun.yaml").is_file()
    return launched


def jobs_of(name: str, folder: Path, *arguments: str) -> list[list[str]]:
    node = OmegaConf.to_container(OmegaConf.load(EXPERIMENTS / "sweeps" / f"{name}.yaml").hydra.sweeper)
    return jobs(folder, node["params"], node.get("grids", {}), *arguments)


def test_without_grids_every_combination_in_the_order_of_the_axes(tmp_path: Path) -> None:
    found = jobs(tmp_path, {"seed": "0,1", "a": "range(1,4)"}, {}, "b=x", "a=7,8")
    assert found == [["seed=0", "a=7", "b=x"], ["seed=0", "a=8", "b=x"],
                     ["seed=1", "a=7", "b=x"], ["seed=1", "a=8", "b=x"]]  # fmt: skip


def test_the_shared_axes_turn_slowest_across_all_grids(tmp_path: Path) -> None:
    grids = {"p": {"head": "p", "t": "1,2", "h": "0.5"}, "q": {"head": "q", "t": "1,2"}}
    found = jobs(tmp_path, {"seed": "0,1"}, grids)
    p = [["head=p", "t=1", "h=0.5"], ["head=p", "t=2", "h=0.5"]]
    q = [["head=q", "t=1"], ["head=q", "t=2"]]
    assert found == [[f"seed={seed}", *rest] for seed in (0, 1) for rest in (*p, *q)]


def test_the_command_line_changes_an_axis_in_each_grid_that_has_it(tmp_path: Path) -> None:
    grids = {"p": {"head": "p", "t": "1,2", "h": "0.5"}, "q": {"head": "q", "t": "1,2"}}
    found = jobs(tmp_path, {"seed": "0,1"}, grids, "t=4", "h=0.1", "seed=3", "x=y")
    assert found == [["seed=3", "x=y", "head=p", "t=4", "h=0.1"], ["seed=3", "x=y", "head=q", "t=4"]]


def test_a_grid_may_be_left_out_and_what_two_grids_have_is_run_once(tmp_path: Path) -> None:
    assert jobs(tmp_path, {}, {"p": {"a": "1"}, "q": None}) == [["a=1"]]
    assert union({"s": ["s=0"]}, {"p": {"a": ["a=1", "a=2"]}, "q": {"a": ["a=2", "a=3"]}}, {}) == [
        ["s=0", "a=1"], ["s=0", "a=2"], ["s=0", "a=3"],
    ]  # fmt: skip


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(HemnetError, match="seed in params and in the grid p: leave it in one"):
        jobs(tmp_path, {"seed": "0,1"}, {"p": {"seed": "3"}})
    with pytest.raises(HydraException, match=r"lr=interval\(0,1\): a sweep needs values"):
        jobs(tmp_path, {}, {}, "lr=interval(0,1)")
    for params, words in (({}, ["seed=range(0,0)"]), ({"seed": "range(3,1)"}, [])):
        with pytest.raises(HydraException, match=r"seed=range\(\d,\d\): there is no value"):
            jobs(tmp_path, params, {}, *words)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_opens_with_what_it_claims_and_gives_each_job_its_place(
    name: str, tmp_path: Path
) -> None:
    text = (EXPERIMENTS / "sweeps" / f"{name}.yaml").read_text()
    assert all(f"# {word}:" in text for word in ("Question", "Command", "Budget", "Expected"))
    assert f"SWEEP={name}" in text
    found = jobs_of(name, tmp_path)
    assert f"{len(found)} jobs" in text, "the header says how many"
    assert len({job_name(job) for job in found}) == len(found)


def test_the_papers_table_by_t_and_eta_with_emanet_among_them(tmp_path: Path) -> None:
    found = jobs_of("table2_train", tmp_path)
    first = [job for job in found if job[0] == "seed=0"]
    assert found[: len(first)] == first, "the seed turns slowest, emanet's jobs included"
    depths = {head: {job[2] for job in first if job[1] == f"model/head={head}"} for head in ("hem", "emanet")}
    assert depths["hem"] == depths["emanet"]
    assert {"model.head.iterations=1", "model.head.iterations=2", "model.head.iterations=3"} < depths["hem"]
    etas = {round(1 - float(job[3].partition("=")[2]), 9) for job in first if len(job) == 4}
    assert {0.2, 0.5, 0.6, 1.0} < etas
    assert len(first) == len(depths["hem"]) * (len(etas) + 1)
    fewer = "seed=0", "model.head.iterations=1,2", "model.head.highway_scale=0.5,0.0"
    small = jobs_of("table2_train", tmp_path, *fewer, "experiment=synthetic_hem_short")
    assert [job_name(job) for job in small[-3:]] == [
        "seed-0_experiment-synthetic_hem_short_head-hem_iterations-2_highway_scale-0.0",
        "seed-0_experiment-synthetic_hem_short_head-emanet_iterations-1",
        "seed-0_experiment-synthetic_hem_short_head-emanet_iterations-2",
    ]
