"""How far EM gets in its iterations, on the same validation images all through training."""

import pytorch_lightning as pl
import torch
from torch import Tensor

from hemnet.callbacks.em_probe import fits, last_step, log_metrics, numbered, spread_samples
from hemnet.data import Item
from hemnet.em.result import EMResult
from hemnet.training.task import SegmentationTask


class EMConvergenceProbe(pl.Callback):
    """Logs em/* before training, at step 0, and at each validation, at the step of its val/*.

    All are means over a fixed set of validation images, fitted in evaluation mode, that is with
    ``iterations_eval`` and ``tolerance`` where the layer has them; T is evaluation's. An image that the
    tolerance stopped stays where it is.

    - ``em/log_likelihood/{t}``: eq (5) at mu^(t) per position, nats, t = 0..T, for either assignment.
    - ``em/step_length/{t}``: |mu^(t+1) - mu^(t)| / |mu^(t)|, t = 0..T-1.
    - ``em/entropy/{t}``: of the responsibilities under mu^(t), nats, mean over positions, t = 0..T.
    - ``em/occupancy_min/{t}``, ``em/occupancy_max/{t}``: the least and the largest share of positions that a
      component holds, N_k / N.
    - ``em/components/{t}``: how many components are in use, exp(-Σ_k p_k log p_k) of p_k = N_k / N, 1 to K.

    The first rank alone computes them, without a collective. The network runs in the precision of the run,
    EM in float32. Heads without EM log nothing.

    Args:
        images: how many, 1 or more, spread over the split.

    Raises:
        ValueError: if it is below 1.
    """

    def __init__(self, images: int = 4) -> None:
        if images < 1:
            raise ValueError(f"images is {images}: give 1 or more")
        self.images = images
        self._items: list[Item] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the state before the first step; a resumed run has it already."""
        if trainer.is_global_zero and trainer.global_step == 0:
            self._log(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the state of this validation."""
        if trainer.is_global_zero and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._log(trainer, pl_module)

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationTask)
        # Not when training starts: one that is resumed in an epoch without validation has no images then.
        self._items = self._items or spread_samples(trainer, self.images)
        found: dict[str, list[dict[str, Tensor]]] = {}
        for item in self._items:
            for prefix, fit in fits(trainer, pl_module, item).items():
                found.setdefault(prefix, []).append(curves(fit.result))
        metrics: dict[str, float] = {}
        for prefix, images in found.items():
            for name in images[0]:
                mean_T = torch.stack([image[name] for image in images]).mean(dim=0)
                metrics |= numbered(f"em/{prefix}{name}", mean_T)
        log_metrics(trainer, metrics, last_step(trainer))


def curves(result: EMResult) -> dict[str, Tensor]:
    """Return the em/* of one fitted image by name, each (T+1,), ``step_length`` (T,), on the CPU."""
    diagnostics = result.diagnostics()
    assert result.trajectory is not None
    occupancy = diagnostics.occupancy[:, 0]
    positions = result.reconstruction.shape[1]
    lengths = result.trajectory[:-1].flatten(2).norm(dim=2)
    found = {
        "step_length": (diagnostics.step_length / lengths)[:, 0],
        "entropy": diagnostics.entropy[:, 0],
        "occupancy_min": occupancy.amin(dim=1),
        "occupancy_max": occupancy.amax(dim=1),
        "components": torch.special.entr(occupancy).sum(dim=1).exp(),
        "log_likelihood": diagnostics.log_likelihood[:, 0] / positions,
    }
    return {name: values.double().cpu() for name, values in found.items()}
