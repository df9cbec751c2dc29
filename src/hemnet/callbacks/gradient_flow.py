"""How much gradient reaches each EM iteration and the backbone.

Shapes: R ranks, T iterations 0..T, Q the two rows of `hemnet.em.result.GradientFlow`: means, features.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from hemnet.callbacks.em_probe import em_layers, log_metrics, numbered
from hemnet.callbacks.lightning_state import loss_scaler
from hemnet.em.result import GradientFlow
from hemnet.training.task import SegmentationTask

# The modules of a backbone before its first stage.
STEM = ("conv1", "bn1")


class GradientFlowProbe(pl.Callback):
    """Logs gradient/* at every n-th optimizer step and at the last one; steps count from 0.

    All norms are of the gradient of the loss that the step minimises, over the images of all micro-batches
    and ranks together, before clipping, without the loss scale of 16-bit precision.

    - ``gradient/means/{t}``: |∂loss/∂mu^(t)| / |∂loss/∂mu^(T)|, t = 0..T, Eq. 15 of Song, Kim and Shim
      (AAAI 2021); ``gradient/means_last``: the norm for t = T itself.
    - ``gradient/share/{t}``: share of iteration t in the gradient with respect to the EM layer's features
      (see `hemnet.em.result.GradientFlow`), t = 0..T, where T is the reconstruction; sums to 1. Their Eq. 18.
    - ``gradient/backbone/<stage>`` and ``gradient/backbone/all``: norm of the parameters' gradient.

    For iterations that the gradient mode cuts off, ``means`` and ``share`` are 0 ("one_step", "implicit") or
    missing ("detached", heads without EM). Values that are not finite are not logged: those of a step that
    overflowed, and ``means/00`` with engine "reference" if the initial means take no gradient, since it is
    not computed then.

    A recorded step runs without torch.compile and costs two more passes over the EM layer's features, but
    its update is the same. Other steps are not affected.

    Args:
        every_n_steps: record every n-th optimizer step, >= 1.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}: give 1 or more optimizer steps")
        self.every_n_steps = every_n_steps
        self._last = -1
        self._step = -1
        self._norms: dict[str, list[Tensor]] = {}
        self._recording = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Determine the number of the last step."""
        total = trainer.estimated_stepping_batches
        self._last = int(total) - 1 if total < float("inf") else -1

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Start recording at the first micro-batch of a step that is due."""
        step = trainer.global_step
        if self._step >= 0 or not (step % self.every_n_steps == 0 or step == self._last):
            return
        assert isinstance(pl_module, SegmentationTask)
        self._step = step
        self._recording.enter_context(torch.compiler.set_stance("force_eager"))
        for prefix, layer in em_layers(pl_module.network).items():
            self._norms[prefix] = []
            handle = layer.register_gradient_flow_hook(partial(self._note, prefix))
            self._recording.callback(handle.remove)

    def _note(self, prefix: str, flow: GradientFlow) -> None:
        self._norms[prefix].append(torch.stack([flow.means, flow.features]).detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the step and stop recording.

        Lightning calls this when all gradients of the step are computed, averaged over the ranks, and divided
        by the loss scale, and before it clips them.
        """
        if self._step < 0:
            return
        assert isinstance(pl_module, SegmentationTask)
        step, norms = self._step, self._norms
        self._stop()
        metrics = backbone_norms(pl_module.network.backbone)
        scaler = loss_scaler(trainer)
        scale = trainer.world_size * (1.0 if scaler is None else scaler.get_scale())
        for prefix, layer in em_layers(pl_module.network).items():
            means, share, last = self._flow(pl_module, norms[prefix], layer.iterations)
            if last > 0:
                metrics |= numbered(f"gradient/{prefix}means", means)
                metrics |= numbered(f"gradient/{prefix}share", share)
                metrics[f"gradient/{prefix}means_last"] = last / scale
                self._histograms(trainer, step, {f"{prefix}flow": means, f"{prefix}share": share})
        log_metrics(trainer, metrics, step)

    def _flow(
        self, task: SegmentationTask, norms: list[Tensor], iterations: int
    ) -> tuple[Tensor, Tensor, float]:
        """Return means/{t}, share/{t} and the norm of the gradient of mu^(T), over all ranks."""
        # Every rank takes part, with zeros if it recorded nothing. The squares of a very small gradient would
        # underflow in float32, so they are summed in float64, on the host, since not every device has
        # float64.
        own_QT = torch.zeros(2, iterations + 1, dtype=torch.float64)
        if norms:
            own_QT = torch.cat(norms, dim=2).cpu().double().norm(dim=2)
        gathered = task.all_gather(own_QT.float().to(task.device))
        assert isinstance(gathered, Tensor)
        all_RQT = gathered.cpu().double().reshape(-1, *own_QT.shape)
        means_T, features_T = all_RQT.norm(dim=0)
        last = means_T[-1].item()
        return means_T / last, features_T / features_T.sum(), last

    def _histograms(self, trainer: pl.Trainer, step: int, values: Mapping[str, Tensor]) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else []:
            if hasattr(logger, "log_histogram"):
                for name, found in values.items():
                    if found.isfinite().all():
                        logger.log_histogram(f"gradient/{name}", found.tolist(), step)

    def _stop(self) -> None:
        self._recording.close()
        self._step, self._norms = -1, {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, _: BaseException) -> None:
        """Stop recording, so that a later training in this process can be compiled."""
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop recording."""
        self._stop()


def backbone_norms(backbone: nn.Module) -> dict[str, float]:
    """Return the norms of the parameters' gradient as gradient/backbone/<stage> and gradient/backbone/all.

    A stage is a child module of the backbone; the modules of `STEM` are one stage, ``stem``. Frozen stages,
    which have no gradient, are left out.
    """
    norms: dict[str, list[Tensor]] = {}
    for name, parameter in backbone.named_parameters():
        if parameter.grad is not None:
            stage = name.split(".")[0]
            norm = torch.linalg.vector_norm(parameter.grad)
            norms.setdefault("stem" if stage in STEM else stage, []).append(norm)
    if not norms:
        return {}
    totals = torch.stack([torch.stack(found).norm() for found in norms.values()])
    values = [*totals.tolist(), totals.norm().item()]
    return {f"gradient/backbone/{s}": v for s, v in zip([*norms, "all"], values, strict=True)}
