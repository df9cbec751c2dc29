"""Train the layers after the EM layer anew for other T, to see why T_eval changes the score.

    python experiments/refit.py RUN_OR_FOLDER [RUN_OR_FOLDER ...] [--iterations 1 3 6 16] [--epochs 5]

The layers after the EM layer have learned what its T_train iterations give. What other T give may be foreign
to them, or it may be worse to segment by; either lowers the score. To tell which, the backbone, the EM layer
and what lies between are held as the last checkpoint has them, in evaluation mode, and the layers after are
trained for each T apart, T_train included, from their trained weights: on the batches of the epochs that
would follow the run's last, the same for each T, with the run's loss, optimizer and schedule at a tenth of
its learning rate.

``RUN/measures/refit.json`` has ``val/miou`` of the whole validation split by T. Runs without an EM layer are
left out, and those refitted already at the same checkpoint for these T and epochs. What other T had is kept;
``--epochs N`` writes to ``refit-epochs-N.json``, which study.py and keep.py leave alone.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from omegaconf import DictConfig
from over_runs import MEASURES, REFIT, REFIT_EPOCHS, over_em_runs, parser_of_runs
from torch import Tensor, nn
from training_step import take_step

from hemnet.config.build import build_data, build_evaluator, build_task, restore
from hemnet.config.command_line import log_to_terminal, run_entry
from hemnet.data import Batch, SegmentationData
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.nets.heads import EMHead
from hemnet.runs.checkpoints import fingerprint
from hemnet.runs.run import Run
from hemnet.storage.files import entry, read_json, write_json
from hemnet.training.task import SegmentationTask
from hemnet.using.evaluation import set_iterations

SCORE = "val/miou"
RATE = 0.1
"""The learning rate over the run's."""


class Held(nn.Module):
    """A backbone as it is, without gradient, that maps images which come again only once."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)
        self.output_stride = getattr(backbone, "output_stride", 1)
        self._known: tuple[Tensor, Sequence[Tensor]] | None = None

    def forward(self, image_BCHW: Tensor) -> Sequence[Tensor]:
        """Return the feature maps of images (B, 3, H, W)."""
        if self._known is None or not torch.equal(self._known[0], image_BCHW):
            with torch.no_grad():
                self._known = image_BCHW, self.backbone(image_BCHW)
        return self._known[1]


def layers_after(head: nn.Module) -> list[nn.Module]:
    """Return the layers from the output of the EM layer to the logits."""
    unit: Any = head.context
    return [unit.conv2, unit.bn, head.refine, head.dropout, head.classifier]


def for_iterations(backbone: Held, head: EMHead, T: int) -> Segmenter:
    """Return a network with T iterations in which only a copy of the layers after the EM layer trains."""
    network = Segmenter(backbone, deepcopy(head).eval().requires_grad_(False))
    set_iterations(network, T)
    for layer in layers_after(network.head):
        layer.train().requires_grad_(True)
    return network


def batches(data: SegmentationData, first: int, epochs: int) -> Iterator[Batch]:
    """Yield the training batches of so many epochs, from ``first`` on."""
    for epoch in range(first, first + epochs):
        data.start_at(epoch, 0)
        yield from data.train_dataloader()


def train(tasks: Sequence[SegmentationTask], data: SegmentationData, first: int, epochs: int) -> None:
    """Train each network on the same batches with the same dropout, for so many epochs from ``first`` on."""
    steps = epochs * len(data.train_dataloader())
    made = [(task, *task.optimization.build(task.network, steps)) for task in tasks]
    for step, batch in enumerate(batches(data, first, epochs)):
        for task, optimizer, schedule in made:
            torch.manual_seed(step)
            take_step(task, optimizer, batch)
            schedule.step()


def slower(config: DictConfig) -> DictConfig:
    """Return a configuration with the learning rate of the refit."""
    config = config.copy()
    config.optim.optimizer.lr *= RATE
    return config


def refit(run: Run, iterations: Sequence[int], epochs: int) -> bool:
    """Refit one run; return whether there was anything to do.

    Raises:
        HemnetError: the run has no complete checkpoint or another head, or its data is missing.
        OSError: the result cannot be written.
    """
    place = run.path / MEASURES / (REFIT if epochs == REFIT_EPOCHS else f"refit-epochs-{epochs}.json")
    about: dict[str, Any] = {"checkpoint_sha256": fingerprint(run.checkpoint()), "epochs": epochs}
    earlier = read_json(place)
    known = about["checkpoint_sha256"] is not None and earlier.items() >= about.items()
    scores = entry(earlier, SCORE, {}) if known else {}
    if {*map(str, iterations)} <= scores.keys():
        return False
    network, spec = restore(run)
    if not isinstance(network.head, EMHead):
        raise HemnetError(f"its head is {type(network.head).__name__}, not EMHead: leave the run out")
    config, data = slower(run.config), build_data(run.config)
    backbone = Held(network.backbone)
    networks = {T: for_iterations(backbone, network.head, T) for T in iterations}
    tasks = {T: build_task(config, network, spec) for T, network in networks.items()}
    train([*tasks.values()], data, run.config.trainer.max_epochs, epochs)
    for T, task in tasks.items():
        [found] = build_evaluator(config).validate(task, datamodule=data, verbose=False)
        scores[str(T)] = found[SCORE]
    place.parent.mkdir(exist_ok=True)
    write_json(place, about | {SCORE: scores})
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Refit every finished run with an EM layer."""
    parser = parser_of_runs(__doc__)
    parser.add_argument("--iterations", type=int, nargs="+", default=[1, 3, 6, 16], metavar="T")
    parser.add_argument("--epochs", type=int, default=REFIT_EPOCHS, help="of the training photographs")
    options = parser.parse_args(arguments)
    log_to_terminal()
    if options.epochs < 1 or min(options.iterations) < 0:
        parser.error("give --epochs 1 or more, and --iterations 0 or more")

    iterations = [*dict.fromkeys(options.iterations)]
    over_em_runs(options.folders, lambda run: refit(run, iterations, options.epochs), "refitted", "scores")


if __name__ == "__main__":
    run_entry(main)
