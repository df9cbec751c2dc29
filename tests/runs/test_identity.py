"""The identity of a run, from the configuration that a user composes."""

import pytest

from hemnet.config.compose import load
from hemnet.errors import HemnetError
from hemnet.runs.identity import Identity, differences, identity, job_name


@pytest.mark.parametrize(
    ("overrides", "head", "iterations", "scale", "gradient"),
    [
        (["model/head=hem"], "hem", 3, 0.5, "unrolled"),
        (["model/head=em", "model.head.iterations=8"], "em", 8, 0.0, "unrolled"),
        (["model/head=hem", "model.head.highway_scale=0"], "em", 3, 0.0, "unrolled"),
        (["model/head=hem", "model.head.highway_scale=[0.5,2,-0.5]"], "hem", 3, "0.5/2/-0.5", "unrolled"),
        (["model/head=hem", "model.head.learn_scale=shared"], "hem", 3, "learned from 0.5", "unrolled"),
        (["model/head=em", "model.head.gradient=detached"], "em", 3, 0.0, "detached"),
        (["model/head=em", "model.head.gradient={_target_:hemnet.em.OneStep}"], "em", 3, 0.0, "one_step"),
        (["model/head=emanet"], "emanet", 3, 0.0, "detached"),
        (["model/head=fcn"], "fcn", None, None, None),
        (["model/head=pspnet"], "pspnet", None, None, None),
        (["model/head=deeplabv3plus"], "deeplabv3plus", None, None, None),
        (["model/head=nonlocal"], "nonlocal", None, None, None),
    ],
)  # fmt: skip
def test_identity(
    overrides: list[str], head: str, iterations: int | None, scale: object, gradient: str | None
) -> None:
    found = identity(load([*overrides, "seed=7", "run_dir=/nowhere"]))
    assert (found.head, found.iterations, found.highway_scale, found.gradient) == (
        head, iterations, scale, gradient,
    )  # fmt: skip
    assert (found.experiment, found.sweep, found.seed) == ("custom", None, 7)


@pytest.mark.parametrize("seed", [1.7, True, "1", None])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    config = load(["run_dir=/nowhere"])
    config.seed = seed
    with pytest.raises(HemnetError, match=f"seed is {seed!r}; it must be a whole number"):
        identity(config)


def test_tags() -> None:
    with_em = Identity("voc_hem", "depth", 2, "hem", 8, 0.5, "unrolled", 1.0)
    assert with_em.tags() == ["head=hem", "sweep=depth", "T=8", "h=0.5", "seed=2", "unrolled"]
    assert Identity("voc_fcn", None, 0, "fcn").tags() == ["head=fcn", "seed=0"]


def test_a_job_is_named_by_what_it_changes() -> None:
    job = [
        "sweep=depth",
        "model/head=hem",
        "model.head.highway_scale=-0.5",
        "seed=3",
        "data.root=/a/b",
        "runs=/c",
    ]
    assert job_name(job) == "head-hem_highway_scale--0.5_seed-3"
    assert job_name(["model/head=em", "model/auxiliary/head=fcn"]) == "model-head-em_model-auxiliary-head-fcn"
    assert (
        job_name(["model.head.highway_scale=[0.5, 0.25]", "+x='a/b'"]) == "highway_scale--0.5-0.25-_x--a-b-"
    )
    assert job_name(["runs=/c"]) == "job"
    long = [f"data.train.key{i}=0.123456789" for i in range(30)]
    assert len(job_name(long)) < 255
    assert job_name(long) != job_name([*long[:-1], "data.train.key29=0.2"])


def test_configurations_differ_by_what_a_run_is_not_by_where() -> None:
    one = load(["run_dir=/a", "data=camvid", "data.root=/a", "logger=csv"])
    elsewhere = load(["run_dir=/b", "data=camvid", "data.root=/b", "data.num_workers=7", "logger=csv"])
    assert differences(one, elsewhere) == []
    other = load(["run_dir=/a", "data=camvid", "model/head=fcn", "seed=1", "logger=csv"])
    found = differences(one, other)
    assert "seed" in found
    assert "model.head._target_" in found
    assert "model.head.iterations" in found
