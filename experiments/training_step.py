"""An optimizer step of training without Lightning, for scripts that take some apart from any run."""

import torch

from hemnet.data import IGNORE_INDEX, Batch
from hemnet.training.task import SegmentationTask


def take_step(task: SegmentationTask, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """Take a step on a batch: forward pass, loss, backward pass, and the optimizer's step.

    The network has no auxiliary head, and its modules are in the modes that the caller gave them.
    """
    mask_BHW = batch["mask"]
    optimizer.zero_grad()
    image_BCHW = batch["image"].contiguous(memory_format=task.memory_format)
    output = task.network(image_BCHW, (mask_BHW.shape[1], mask_BHW.shape[2]), batch.get("inside"))
    [found] = task.training_loss.evaluate([output.logits], mask_BHW, IGNORE_INDEX)
    found.part.backward()
    optimizer.step()
