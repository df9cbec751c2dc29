"""What each figure shows: title, metrics and axis.

The page and the W&B dashboard both draw from this table, so that neither can show what the other does not.
"""

from dataclasses import dataclass
from typing import Literal

Axis = Literal[
    "T", "h", "T and h", "T of evaluation and h", "iteration", "step", "setting", "class", "run", "image"
]


@dataclass(frozen=True)
class Metric:
    """A metric of a figure.

    Attributes:
        name: in docs/metrics.md.
        label: of its axis.
        log: whether its axis is logarithmic.
        gain: whether what is drawn over the iterations is its gain since t = 0.
    """

    name: str
    label: str
    log: bool = False
    gain: bool = False


@dataclass(frozen=True)
class Definition:
    """A figure.

    Attributes:
        key: ends the names of its files.
        chapter: heading above it.
        title: what it shows, without a full stop.
        metrics: what it draws, at least one; a metric per iteration of EM without its ``/{t}``.
        axis: what the values are drawn against.
        em_alone: whether it draws em and hem alone, not other heads.
    """

    key: str
    chapter: str
    title: str
    metrics: tuple[Metric, ...]
    axis: Axis
    em_alone: bool = True

    @property
    def metric(self) -> Metric:
        """The first metric."""
        return self.metrics[0]


MIOU = Metric("val/miou", "mIoU")
AGAINST_T = Definition(
    "miou_vs_iterations", "mIoU against the number of iterations T", "mIoU against T", (MIOU,), "T"
)
AGAINST_H = Definition("miou_vs_scale", "mIoU against the highway scale h", "mIoU against h", (MIOU,), "h")
GRID_TRAIN = Definition(
    "grid_train", "T of training and step size", "mIoU by T of training and step size η = 1 - h", (MIOU,),
    "T and h", em_alone=False,
)  # fmt: skip
GRID_EVAL = Definition(
    "grid_eval", "T of evaluation and step size", "mIoU by T of evaluation and step size η = 1 - h", (MIOU,),
    "T of evaluation and h", em_alone=False,
)  # fmt: skip
GRADIENT_MODES = Definition(
    "gradient_modes", "Gradient modes", "mIoU of each gradient mode", (MIOU,), "setting"
)
GRADIENT_MEANS = Definition(
    "gradient_means", "Gradient flow",
    "Norm of the gradient at the means of iteration t, relative to the last",
    (Metric("gradient/means", "|dL/dμ(t)| / |dL/dμ(T)|", log=True),), "iteration",
)  # fmt: skip
GRADIENT_SHARE = Definition(
    "gradient_share", "Gradient flow",
    "Share of the gradient into the EM layer's features that iteration t injects",
    (Metric("gradient/share", "share of the gradient"),), "iteration",
)  # fmt: skip
GRADIENT_BACKBONE = Definition(
    "gradient_backbone", "Gradient of the backbone",
    "l2 norm of the gradient of the backbone's parameters over training",
    (Metric("gradient/backbone/all", "gradient norm", log=True),), "step",
)  # fmt: skip
LIKELIHOOD = Definition(
    "log_likelihood", "Convergence of the iterations",
    "Log-likelihood gained since t = 0, nats per position, on the fixed validation batch",
    (Metric("em/log_likelihood", "log-likelihood gained", gain=True),), "iteration",
)  # fmt: skip
CONVERGENCE = Definition(
    "convergence", "Convergence of the iterations",
    "Relative step length, effective number of components, entropy of the responsibilities",
    (Metric("em/step_length", "step length", log=True), Metric("em/components", "components"),
     Metric("em/entropy", "entropy, nats")), "iteration",
)  # fmt: skip
HEADS = Definition("heads", "Heads", "mIoU of each head", (MIOU,), "setting", em_alone=False)
CLASSES = Definition(
    "classes", "Classes", "IoU of each class", (Metric("val/iou", "IoU"),), "class", em_alone=False
)
LEARNING = Definition(
    "learning", "Learning curves", "mIoU on the validation split over training", (MIOU,), "step",
    em_alone=False,
)  # fmt: skip
COST = Definition(
    "cost", "Cost", "Cost of each setting",
    (Metric("cost/seconds_per_step", "s per step"), Metric("cost/peak_memory_mib", "peak MiB"),
     Metric("cost/parameters", "parameters"), Metric("cost/em_parameters", "parameters of the EM layer"),
     Metric("cost/gflops", "GFLOPs")), "setting", em_alone=False,
)  # fmt: skip
SETTINGS = Definition("settings", "All settings", "mIoU of every setting", (MIOU,), "run", em_alone=False)
PREDICTIONS = Definition(
    "predictions", "Samples", "predictions", (Metric("val/predictions", "predictions"),), "image",
    em_alone=False,
)  # fmt: skip
ATTENTION = Definition(
    "attention", "Samples", "attention maps", (Metric("em/attention", "attention"),), "image", em_alone=False
)
FIGURES = (
    AGAINST_T, AGAINST_H, GRID_TRAIN, GRID_EVAL, GRADIENT_MODES, GRADIENT_MEANS, GRADIENT_SHARE,
    GRADIENT_BACKBONE, LIKELIHOOD, CONVERGENCE, HEADS, CLASSES, LEARNING, COST, SETTINGS, PREDICTIONS,
    ATTENTION,
)  # fmt: skip
"""All figures, in the order of the page."""
