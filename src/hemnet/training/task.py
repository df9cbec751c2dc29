"""The LightningModule: what a training step and an evaluation step are.

Shapes: B images, K classes, H and W pixels.
"""

import logging
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from hemnet.data import IGNORE_INDEX, Batch, DatasetSpec
from hemnet.nets import Segmenter
from hemnet.processes.ranks import distributed
from hemnet.runs.checkpoints import CHECKPOINT_FORMAT
from hemnet.training.inference import PLAIN, Inference
from hemnet.training.metrics import ConfusionMatrix, PixelMean, summarize
from hemnet.training.optim import HardPixels, Optimization, PixelSum, cross_entropy_sum

log = logging.getLogger(__name__)


class SegmentationTask(pl.LightningModule):
    """Trains a segmenter with cross-entropy and scores it with one confusion matrix.

    Masks may be of another size than the images of their batch: logits are resized to the masks, so
    evaluation is at the resolution of the labels.

    Args:
        network: the segmenter.
        spec: the classes.
        optimization: optimizer, parameter groups and schedule.
        hard_pixels: what of a training batch counts in the loss; None is every valid pixel.
        auxiliary_weight: weight of the auxiliary head's loss.
        channels_last: memory format of the convolutions; faster on most hardware.
        compile: in training, run the network through ``torch.compile``; evaluation, whose images are of
            many sizes, is not compiled. Checkpoints are the same.

    Attributes:
        inference: how a validation step runs the network; plain unless set, as it is by ``hemnet.evaluate``.
        not_finite: the images of the last evaluation, on this rank, for which the network's output is not
            finite: they count as whatever class argmax makes of NaN, so the scores mean little.
    """

    def __init__(
        self,
        network: Segmenter,
        spec: DatasetSpec,
        optimization: Optimization,
        *,
        hard_pixels: HardPixels | None = None,
        auxiliary_weight: float = 0.4,
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.optimization = optimization
        self.training_loss = hard_pixels.sum if hard_pixels else cross_entropy_sum
        self.auxiliary_weight = auxiliary_weight
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        # Not a module, whose weights would have other names in checkpoints.
        self._compiled = torch.compile(network.__call__) if compile else None
        self.inference: Inference = PLAIN
        self.confusion = ConfusionMatrix(spec.num_classes, IGNORE_INDEX)
        # Over pixels: Lightning's own mean over ranks is wrong where one has a sample more than another.
        self.mean_loss = PixelMean()
        self.not_finite: list[str] = []

    def forward(self, image: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return logits (B, K, H, W) float32 of normalised images (B, 3, h, w), at ``size`` (H, W)."""
        # Never compiled, which is for the crops of training, all of one size: for images each of their own
        # size, torch.compile takes minutes, or fails.
        return self.network(image.contiguous(memory_format=self.memory_format), size).logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return this rank's part of the loss: the mean over the pixels of all ranks' batches that count.

        The mean of the parts over the ranks is that loss, and so is the mean of their gradients, which DDP
        takes. With accumulated batches it is the mean of theirs.
        """
        image, mask = batch["image"], batch["mask"]
        run = self._compiled or self.network
        output = run(image.contiguous(memory_format=self.memory_format), _size(mask))
        logits = [found for found in output if found is not None]
        parts, means = _over_ranks([self.training_loss(found, mask, IGNORE_INDEX) for found in logits])
        for name, mean in zip(("train/loss", "train/loss_auxiliary"), means, strict=False):
            self.log(name, mean, on_step=True, on_epoch=False, batch_size=len(image))
        loss = parts[0] if len(parts) == 1 else parts[0] + self.auxiliary_weight * parts[1]
        # What is not finite on one rank must be seen by all, and all have is the mean of the gradients. A
        # gradient can lose a NaN on its way, in a maximum or where nothing is valid; as a factor it cannot.
        return loss * (1 + (loss - loss).detach())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Log the learning rate that this step uses."""
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], on_step=True, on_epoch=False)

    def on_validation_start(self) -> None:
        """Begin anew; give every rank the buffers of the first: its batch statistics are the checkpoint's.

        DDP would do so at each batch, and wait for ever where one rank has a batch more than another.
        """
        self.not_finite = []
        if distributed():
            for buffer in self.network.buffers():
                dist.broadcast(buffer, src=0)
        self._let_ddp_broadcast(False)

    def on_validation_end(self) -> None:
        """Leave training as it was."""
        self._let_ddp_broadcast(True)

    def _let_ddp_broadcast(self, wanted: bool) -> None:
        if isinstance(self.trainer.strategy.model, DistributedDataParallel):
            self.trainer.strategy.model.require_forward_param_sync = wanted

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Count one batch and return its predicted classes, (B, H, W) int64, for callbacks to show."""
        mask = batch["mask"]
        logits = self.inference(self, batch["image"], _size(mask))
        prediction = logits.argmax(1)
        self.confusion.update(prediction, mask)
        self.mean_loss.update(*cross_entropy_sum(logits, mask, IGNORE_INDEX))
        finite_B = logits.isfinite().flatten(1).all(1).tolist()
        self.not_finite += [name for name, good in zip(batch["name"], finite_B, strict=True) if not good]
        return prediction

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the split, computed from counts summed over all ranks."""
        if self.not_finite:
            log.warning("the network's output is not finite for %s", shortened(self.not_finite))
        scores = summarize(self.confusion.compute(), self.spec.classes, "val")
        scores["val/loss"] = self.mean_loss.compute().item()
        self.confusion.reset()
        self.mean_loss.reset()
        # Every rank holds the same matrix now, so nothing is left to synchronise.
        self.log_dict(scores, rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and a schedule stepped once per optimizer step."""
        total = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = self.optimization.build(self.network, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to use the network without its data set, as plain containers."""
        checkpoint["hemnet"] = {"format": CHECKPOINT_FORMAT, "spec": self.spec.to_dict()}


def shortened(names: Sequence[str], most: int = 5) -> str:
    """Return the first ``most`` names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _size(mask_BHW: Tensor) -> tuple[int, int]:
    return mask_BHW.shape[-2], mask_BHW.shape[-1]


def _over_ranks(sums: list[PixelSum]) -> tuple[list[Tensor], list[Tensor]]:
    """Return for each loss this rank's part of its mean over all ranks' pixels, and that mean, to be logged.

    The parts, averaged over the ranks, are the mean: each is taken as many times as there are ranks.
    """
    if not distributed():
        means = [loss.mean() for loss in sums]
        return means, means
    # In float64, which holds any number of pixels.
    everyone = torch.stack([value.detach().double() for loss in sums for value in loss])
    dist.all_reduce(everyone)
    totals, counts = everyone.view(-1, 2).unbind(1)
    counts = counts.clamp(min=1)
    shares = (counts / dist.get_world_size()).to(sums[0].total.dtype)
    return [loss.total / share for loss, share in zip(sums, shares, strict=True)], list(totals / counts)
