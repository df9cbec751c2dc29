"""A loss and a callback.

Shapes: B images, K classes, H and W pixels.
"""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from hemnet.training.loss import Loss


class SquaredError(Loss):
    """The mean over the valid pixels of |softmax(logits) - one_hot(target)|², the Brier score.

    Exact over ranks: a loss is a function of sums over pixels, which hemnet adds up over all processes.
    """

    def sums(self, logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
        """Return the sum over the valid pixels, and their number."""
        valid_BHW = target_BHW != ignore_index
        share_BKHW = logits_BKHW.float().softmax(1)
        truth_BHW = torch.where(valid_BHW, target_BHW, 0)
        own_BHW = share_BKHW.gather(1, truth_BHW.unsqueeze(1)).squeeze(1)
        error_BHW = share_BKHW.square().sum(1) - 2 * own_BHW + 1
        return (error_BHW * valid_BHW).sum(), valid_BHW.sum()

    def value(self, *sums: Tensor) -> Tensor:
        """Return the mean; 0 if no pixel is valid."""
        total, pixels = sums
        return total / pixels.clamp(min=1)


class LengthOfWeights(pl.Callback):
    """Logs the length of all weights as `mine/weights`, which metrics.csv, W&B and the report then have.

    Args:
        every_n_steps: how often, in optimizer steps.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Log it."""
        if trainer.global_step % self.every_n_steps == 0:
            squares = [p.detach().float().square().sum() for p in pl_module.parameters()]
            pl_module.log("mine/weights", torch.stack(squares).sum().sqrt())
