"""How far EM converges within its iterations, on the same validation images throughout training."""

import pytorch_lightning as pl
import torch
from torch import Tensor

from hemnet.callbacks.em_probe import fits, last_step, log_metrics, numbered, spread_samples
from hemnet.data import Item
from hemnet.em.result import EMResult
from hemnet.training.task import SegmentationTask


class EMConvergenceProbe(pl.Callback):
    """Logs em/* before training, at step 0, and at each validation, at the step of its val/*.

    All values are means over a fixed set of validation images. EM runs as in evaluation, with the layer's
    ``iterations_eval`` and ``tolerance``, and T is the T of evaluation. The means of an image that the
    tolerance has stopped stay constant.

    - ``em/log_likelihood/{t}``: eq (5) at mu^(t) per position, nats, t = 0..T, for either assignment.
    - ``em/step_length/{t}``: |mu^(t+1) - mu^(t)| / |mu^(t)|, t = 0..T-1.
    - ``em/entropy/{t}``: entropy of the responsibilities under mu^(t), nats, mean over positions, t = 0..T.
    - ``em/occupancy_min/{t}``, ``em/occupancy_max/{t}``: the smallest and the largest share of the positions
      that a component holds, N_k / N.
    - ``em/components/{t}``: effective number of components, exp(-Σ_k p_k log p_k) of p_k = N_k / N, 1 to K.

    Rank 0 alone computes them, without collective operations. The network runs in the precision of the run,
    EM in float32. Heads without EM log nothing.

    Args:
        images: number of validation images, >= 1, spread over the split.

    Raises:
        ValueError: ``images`` is below 1.
    """

    def __init__(self, images: int = 4) -> None:
        if images < 1:
            raise ValueError(f"images is {images}: give 1 or more")
        self.images = images
        self._items: list[Item] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the state before the first step; a resumed run has logged it already."""
        if trainer.is_global_zero and trainer.global_step == 0:
            self._log(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the state at this validation."""
        if trainer.is_global_zero and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._log(trainer, pl_module)

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationTask)
        # Not in on_train_start: a run that is resumed in an epoch without validation has no loader there.
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
    """Return the em/* values of one image: (T+1,), but (T,) for ``step_length``; float64 on the CPU."""
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
