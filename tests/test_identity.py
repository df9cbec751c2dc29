"""What a run is a run of, from the configuration that a user composes."""

import pytest

from hemnet.compose import load
from hemnet.identity import Identity, identity


@pytest.mark.parametrize(
    ("overrides", "head", "iterations", "scale", "gradient"),
    [
        (["model/head=hem"], "hem", 3, 0.5, "unrolled"),
        (["model/head=em", "model.head.iterations=8"], "em", 8, 0.0, "unrolled"),
        (["model/head=hem", "model.head.highway_scale=0"], "em", 3, 0.0, "unrolled"),
        (["model/head=hem", "model.head.highway_scale=[0.5,2,-0.5]"], "hem", 3, "0.5/2/-0.5", "unrolled"),
        (["model/head=hem", "model.head.learn_scale=shared"], "hem", 3, "learned", "unrolled"),
        (["model/head=em", "model.head.gradient=detached"], "em", 3, 0.0, "detached"),
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


def test_tags() -> None:
    with_em = Identity("voc_hem", "depth", 2, "hem", 8, 0.5, "unrolled", 1.0)
    assert with_em.tags() == ["head=hem", "sweep=depth", "T=8", "h=0.5", "seed=2", "unrolled"]
    assert Identity("voc_fcn", None, 0, "fcn").tags() == ["head=fcn", "seed=0"]
