"""The LightningModule: the training step and the evaluation step.

Shapes: B images, K classes, H and W pixels.
"""

import logging
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hemnet.data import IGNORE_INDEX, Batch, DatasetSpec
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.processes.ranks import distributed
from hemnet.runs.checkpoints import CHECKPOINT_FORMAT
from hemnet.training.arithmetic import Float32, use_float32
from hemnet.training.inference import PLAIN, Inference, explain_memory
from hemnet.training.loss import CrossEntropy, Loss, LossSum, class_weights, cross_entropy_sum
from hemnet.training.metrics import ConfusionMatrix, PixelMean, summarize
from hemnet.training.optim import Optimization
from hemnet.wording import shortened

log = logging.getLogger(__name__)


class SegmentationTask(pl.LightningModule):
    """Trains a segmenter with a loss or a sum of losses, and scores it with one confusion matrix.

    Masks may have another size than the images of their batch: logits are resized to the masks, so that
    evaluation is at the resolution of the labels.

    Args:
        network: the segmenter.
        spec: the classes.
        optimization: optimizer, parameter groups and schedule.
        loss: the losses of training by a name, which are added; None is cross-entropy alone, and ``val/loss``
            is that in any case.
        auxiliary_weight: the weight of the auxiliary head's loss.
        channels_last: whether convolutions use this memory format, which is faster on most hardware. A
            network with convolutions of `crashes_channels_last` does without, which a log line says.
        compile: whether to compile the network with ``torch.compile`` for training. Evaluation, whose images
            have many sizes, is not compiled. Checkpoints do not depend on this.
        float32_precision: of float32 products and convolutions on CUDA, see `use_float32`.

    Attributes:
        inference: how a validation step runs the network; plain, unless it is set as ``hemnet.evaluate``
            does.
        not_finite: the images of the last evaluation, on this rank, for which the network's output is not
            finite. argmax gives them an arbitrary class, so the scores mean little.
    """

    def __init__(
        self,
        network: Segmenter,
        spec: DatasetSpec,
        optimization: Optimization,
        *,
        loss: Mapping[str, Loss] | None = None,
        auxiliary_weight: float = 0.4,
        channels_last: bool = True,
        compile: bool = False,
        float32_precision: Float32 = "highest",
    ) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.optimization = optimization
        if loss is not None and not loss:
            raise ValueError("loss is empty: choose one or more, such as task/loss=cross_entropy")
        self.training_loss = LossSum(loss or {"cross_entropy": CrossEntropy()})
        for weights in class_weights(self.training_loss):
            weights.fit(spec.num_classes)
        self.auxiliary_weight = auxiliary_weight
        if channels_last and (narrow := crashes_channels_last(network)):
            log.info("without channels_last, in which torch crashes for %s", shortened(narrow, 2))
            channels_last = False
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        # A compiled function rather than a module, which would rename the weights in checkpoints.
        self._compiled = torch.compile(network.__call__) if compile else None
        self.float32_precision = float32_precision
        self._search = False
        self.inference: Inference = PLAIN
        self.confusion = ConfusionMatrix(spec.num_classes, IGNORE_INDEX)
        self.labelled_pixels: dict[str, int] = {}  # by class, of the last validation
        # Lightning's own mean over ranks would be wrong if one rank has a sample more than another.
        self.mean_loss = PixelMean()
        self.not_finite: list[str] = []

    def forward(self, image: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return logits (B, K, H, W) float32 of normalised images (B, 3, h, w), at ``size`` (H, W)."""
        # Never compiled: for images of many sizes torch.compile takes minutes or fails.
        return self.network(image.contiguous(memory_format=self.memory_format), size).logits

    def setup(self, stage: str) -> None:
        """Set the precision of float32 products, before training and evaluation."""
        use_float32(self.float32_precision)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return this rank's part of the loss, a scalar.

        The loss is that of the counted pixels of all ranks' batches, as `over_ranks` says; the gradients that
        DDP averages give its gradient. With accumulated batches, the loss of a step is the mean of theirs.
        """
        image, mask = batch["image"], batch["mask"]
        run = self._compiled or self.network
        output = run(image.contiguous(memory_format=self.memory_format), _size(mask), batch.get("inside"))
        found = self.training_loss.evaluate([x for x in output if x is not None], mask, IGNORE_INDEX)
        main, *auxiliary = found
        values = [
            main.value,
            *(main.terms[term] for term in self._terms()),
            *(each.value for each in auxiliary),
        ]
        for name, value in zip(self._loss_names(), values, strict=False):
            self.log(name, value, on_step=True, on_epoch=False, batch_size=len(image))
        loss = main.part
        for each in auxiliary:
            loss = loss + self.auxiliary_weight * each.part
        # All ranks must notice if the loss of one is not finite, and the averaged gradient is all that they
        # share. A NaN in the forward pass need not reach the gradient: a maximum or a mask can drop it. This
        # factor, which is 1 or NaN, multiplies the whole gradient.
        return loss * (1 + (loss - loss).detach())

    def on_train_start(self) -> None:
        """Set the learning rate to that of the schedule, which is a new one if the run is extended.

        Raises:
            HemnetError: class weights are to follow from frequencies, and nothing has counted them.
        """
        if any(weights.missing for weights in class_weights(self.training_loss)):
            raise HemnetError(
                "class_weights follow from the classes' frequencies, which were not counted: give the "
                "trainer hemnet.callbacks.class_frequencies.ClassFrequencies, or give the weights"
            )
        schedule: Any = self.lr_schedulers()
        for group, base, factor in zip(
            schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            rate = base * factor(schedule.last_epoch)
            if group["lr"] != rate:
                log.info("learning rate of %s: %.3g, before %.3g", group["name"], rate, group["lr"])
                group["lr"] = rate

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Log the learning rate of this step."""
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], on_step=True, on_epoch=False)

    def on_validation_start(self) -> None:
        """Copy the buffers of rank 0 to all ranks, since the checkpoint holds rank 0's batch statistics.

        DDP itself would do this at each batch, and wait for ever if one rank has a batch more than another.
        """
        self.not_finite = []
        # A search for the fastest convolutions takes longer than an image, once for each of the many sizes.
        self._search, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
        if distributed():
            for buffer in self.network.buffers():
                dist.broadcast(buffer, src=0)
        self._let_ddp_broadcast(False)

    def on_validation_end(self) -> None:
        """Let DDP copy buffers in training again, and cuDNN search if it may."""
        torch.backends.cudnn.benchmark = self._search
        self._let_ddp_broadcast(True)

    def _let_ddp_broadcast(self, wanted: bool) -> None:
        if isinstance(self.trainer.strategy.model, DistributedDataParallel):
            self.trainer.strategy.model.require_forward_param_sync = wanted

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add one batch to the scores; return its predicted classes, (B, H, W) int64, for callbacks."""
        mask = batch["mask"]
        with explain_memory(batch["name"]):
            logits = self.inference(self, batch["image"], _size(mask))
        prediction = logits.argmax(1)
        self.confusion.update(prediction, mask)
        self.mean_loss.update(*cross_entropy_sum(logits, mask, IGNORE_INDEX))
        finite_B = logits.isfinite().flatten(1).all(1).tolist()
        self.not_finite += [name for name, good in zip(batch["name"], finite_B, strict=True) if not good]
        return prediction

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the split, from counts over all ranks."""
        if self.not_finite:
            log.warning("the network's output is not finite for %s", shortened(self.not_finite))
        matrix = self.confusion.compute()
        self.labelled_pixels = dict(zip(self.spec.classes, matrix.sum(1).tolist(), strict=True))
        scores = summarize(matrix, self.spec.classes, "val")
        scores["val/loss"] = self.mean_loss.compute().item()
        self.confusion.reset()
        self.mean_loss.reset()
        # Every rank has the same scores, so Lightning need not synchronise them.
        self.log_dict(scores, rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and a schedule that advances at each optimizer step."""
        total = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = self.optimization.build(self.network, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def metric_names(self) -> list[str]:
        """Return the names of all metrics that the task logs."""
        scores = summarize(self.confusion.matrix, self.spec.classes, "val")
        return [*self._loss_names(), "train/lr", *scores, "val/loss"]

    def _terms(self) -> list[str]:
        """Return the names of the losses that are logged separately; none if there is one loss only."""
        return [*self.training_loss] if len(self.training_loss) > 1 else []

    def _loss_names(self) -> list[str]:
        auxiliary = [] if self.network.auxiliary is None else ["train/loss_auxiliary"]
        return ["train/loss", *(f"train/loss/{term}" for term in self._terms()), *auxiliary]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the format's number and the classes, so that the network can be used without its data set."""
        checkpoint["hemnet"] = {"format": CHECKPOINT_FORMAT, "spec": self.spec.to_dict()}


def crashes_channels_last(network: nn.Module) -> list[str]:
    """Return the names of the convolutions whose backward pass ends the process in channels-last format.

    On a CPU with two or more threads, torch 2.13 writes beyond the gradient of a 1x1 convolution with a
    stride above 1 and fewer than 16 input channels, in float32 and bfloat16.
    """
    return [
        name for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1} and max(module.stride) > 1
        and module.in_channels // module.groups < 16
    ]  # fmt: skip


def _size(mask_BHW: Tensor) -> tuple[int, int]:
    return mask_BHW.shape[-2], mask_BHW.shape[-1]
