"""What a layer may learn beside its means (the highway scale, the variance, the prior), and what it cannot.

Shape suffixes: K components.
"""

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hemnet.em.gradient.modes import GradientMode
from hemnet.em.highway import LearnScale
from hemnet.em.initial_means import Means
from hemnet.em.options import Options, check_name

LearnVariance = Literal["none", "shared", "per_component"]


def initial_log_variance(
    variance: float, components: int, learn_variance: LearnVariance
) -> nn.Parameter | None:
    """The float32 parameter log σ², (1,) for "shared" or (K,); None for "none"."""
    if learn_variance == "none":
        return None
    return nn.Parameter(torch.full((1 if learn_variance == "shared" else components,), variance).log())


def with_parameters(options: Options, log_variance: Tensor | None, prior_logit: Tensor | None) -> Options:
    """The options with σ² = exp(log_variance) and π = softmax(prior_logit), of those that are given.

    Raises:
        ValueError: if the engine takes no tensors.
    """
    if log_variance is not None:
        options = replace(options, variances=log_variance.exp())
    return options if prior_logit is None else replace(options, prior=prior_logit.softmax(0))


def check_learning(
    iterations: int,
    gradient: GradientMode,
    assignment: str,
    means: Means,
    learn_scale: LearnScale,
    learn_variance: LearnVariance,
    learn_prior: bool,
) -> None:
    """Refuse with a ValueError to learn what no gradient reaches, or what is not defined."""
    check_name("learn_scale", learn_scale, get_args(LearnScale))
    check_name("learn_variance", learn_variance, get_args(LearnVariance))
    if learn_scale != "none" and iterations == 0:
        raise ValueError(f"learn_scale={learn_scale!r} with iterations=0: there is no step to scale")
    if learn_variance == "per_component" and assignment == "dot":
        raise ValueError(
            "learn_variance='per_component' needs assignment='gaussian': under 'dot' |x_n|² does not cancel, "
            "and the responsibilities are those of no mixture; 'shared' goes with both"
        )
    for option, learned, what, instead in (
        (f"means={means!r}", means == "learned", "means", "means='moving_average', or gradient='unrolled'"),
        (f"learn_scale={learn_scale!r}", learn_scale != "none", "scale", "gradient='unrolled' or 'one_step'"),
        (
            f"learn_variance={learn_variance!r}",
            learn_variance != "none",
            "model",
            "gradient='unrolled' or 'one_step'",
        ),
        (f"learn_prior={learn_prior!r}", learn_prior, "model", "gradient='unrolled' or 'one_step'"),
    ):
        if learned and what not in gradient.reaches:
            raise ValueError(
                f"{option} with gradient={gradient.name!r} would never train: no gradient reaches the "
                f"{REACHED[what]}. Use {instead}"
            )


def check_correction(means: Means, options: Options) -> None:
    """Refuse with a ValueError to correct a momentum for h where there is none, or means are no such sum."""
    if means != "moving_average":
        raise ValueError(f"correct_momentum with means={means!r}: there is no moving average; leave it out")
    if options.normalize != "none" or options.acceleration != "none":
        raise ValueError(
            "correct_momentum needs normalize='none' and acceleration='none', where the final means are "
            "h^T·(initial means) + (1 - h^T)·(a mean of M-steps); they are "
            f"{options.normalize!r} and {options.acceleration!r}"
        )


REACHED = {"means": "means", "scale": "highway scale", "model": "variance and the prior"}
