"""A weight per class in a loss: given, or from how frequent the classes are in the training masks.

Shapes: K classes.
"""

import logging
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)
Rule = Literal["balanced", "median_frequency"]


class ClassWeights(nn.Module):
    """A weight per class, or the rule by which it follows from counts of the training masks.

    With n_c the pixels of class c, ``balanced`` is Σ_k n_k / (K n_c), K being the classes that occur, as in
    scikit-learn; then each class has the same weight in the loss in all. ``median_frequency`` is
    median(f) / f_c with f_c = n_c over the labelled pixels of the images that show class c (Eigen and Fergus,
    ICCV 2015). A class that does not occur has weight 0.

    Weights by a rule are in checkpoints, so that a resumed run counts no masks.

    Args:
        given: K numbers >= 0, not all 0; or a rule.

    Raises:
        ValueError: a weight is negative or not finite, or all are 0; or an unknown rule.
    """

    weights_K: Tensor

    def __init__(self, given: Sequence[float] | Rule) -> None:
        super().__init__()
        self.rule: Rule | None = None
        if isinstance(given, str):
            if given not in get_args(Rule):
                raise ValueError(f"class_weights is {given!r}: give a number per class, or {_rules()}")
            self.rule = given
        else:
            weights = [float(weight) for weight in given]
            if not any(weights) or not all(0 <= weight < float("inf") for weight in weights):
                raise ValueError(f"class_weights is {weights}: give numbers of 0 or more, one of them above")
            self.register_buffer("weights_K", torch.tensor(weights), persistent=False)

    def fit(self, num_classes: int) -> None:
        """Check the number of weights; where a rule gives them, make room for them.

        Raises:
            ValueError: there are not as many weights as classes.
        """
        if self.rule is not None:
            self.register_buffer("weights_K", torch.full((num_classes,), torch.nan))
        elif len(self.weights_K) != num_classes:
            raise ValueError(
                f"class_weights has {len(self.weights_K)} numbers for {num_classes} classes: give one each, "
                f"or {_rules()}"
            )

    @property
    def missing(self) -> bool:
        """Whether the weights are still to be found from counts."""
        return self.rule is not None and bool(self.weights_K.isnan().any())

    def count(self, pixels_K: Tensor, around_K: Tensor) -> None:
        """Set the weights by the rule.

        Args:
            pixels_K: (K,) pixels of each class in the training masks.
            around_K: (K,) labelled pixels of the masks that show this class.
        """
        seen_K = pixels_K > 0
        share_K = pixels_K.double() / (pixels_K.sum() if self.rule == "balanced" else around_K).clamp(min=1)
        middle = 1 / seen_K.sum() if self.rule == "balanced" else share_K[seen_K].median()
        weights_K = torch.where(seen_K, middle / torch.where(seen_K, share_K, 1), 0)
        self.weights_K.copy_(weights_K)
        log.info("class_weights=%s: [%s]", self.rule, ", ".join(f"{weight:.4g}" for weight in weights_K))


def _rules() -> str:
    return " or ".join(get_args(Rule))


def class_weights(losses: nn.Module) -> list[ClassWeights]:
    """Return all class weights in a module of losses."""
    return [module for module in losses.modules() if isinstance(module, ClassWeights)]
