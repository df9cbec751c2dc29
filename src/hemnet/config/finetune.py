"""Fine-tuning: a new run that starts from the weights of a finished one, ``finetune=RUN``.

Resuming goes on with the same run: its optimizer, its schedule, its steps. Fine-tuning takes weights alone.
"""

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from hemnet.config.build import network_in
from hemnet.config.explain import ConfigError
from hemnet.data import DatasetSpec
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.processes.ranks import rank
from hemnet.runs import checkpoints
from hemnet.runs.run import FINETUNE, Run
from hemnet.runs.training_run import TrainingRun
from hemnet.storage.files import read_json, write_json

log = logging.getLogger(__name__)
CLASSIFIER = "classifier"
"""The last module of every head, which has an output for each class."""


def start(run: TrainingRun, network: Segmenter, spec: DatasetSpec) -> str | None:
    """Do what `start_from` does if the run's configuration asks for it, and record it in result.json.

    A run that is resumed has its weights from its own checkpoint. What it was started from is in
    finetune.json, and the other run need not exist any more.

    Returns:
        the SHA-256 of the checkpoint that the run starts from; None if from none, and it may be None on other
        ranks than 0.
    """
    source = run.config.get("finetune")
    if source is None:
        return None
    if run.resumes_from is None:
        found = start_from(network, spec, str(source))
        if rank() == 0:
            write_json(run.path / FINETUNE, found)
    known = read_json(run.path / FINETUNE)
    run.record(finetune=known)
    return known.get("sha256")


def start_from(network: Segmenter, spec: DatasetSpec, source: str) -> dict[str, Any]:
    """Copy the weights of a trained run into a network, as far as they fit; log what was not taken.

    A tensor is taken if the trained network has one of this name and shape. Those of the classifier are taken
    only if the classes are the same, in the same order. The backbone must be taken whole.

    Args:
        network: is changed.
        spec: the classes of the network.
        source: a run directory, of which the last checkpoint is taken, or one of its checkpoints.

    Returns:
        for result.json: ``from``, ``sha256`` of the checkpoint, ``classes`` ("same" or "other"), how many
        tensors were ``taken``, and the names of those that were ``not_taken``.

    Raises:
        HemnetError: there is no such run or checkpoint, it is damaged, or its backbone is another.
    """
    path = _checkpoint(source)
    found = checkpoints.load(path)
    state, trained = network_in(found.content, path)
    same = trained.classes == spec.classes
    own = network.state_dict()
    taken = {name: state[name] for name, value in own.items() if _fits(name, value, state.get(name), same)}
    left = [name for name in own if name not in taken]
    if missing := [name for name in left if name.startswith("backbone.")]:
        raise ConfigError(
            f"finetune={source}: its backbone is not that of this run, {len(missing)} tensors differ (first: "
            f"{missing[0]}): give this run the model.backbone of {path.parents[1] / 'config.yaml'}"
        )
    if broken := [name for name, value in taken.items() if not value.isfinite().all()]:
        raise HemnetError(f"finetune={source}: NaN or infinity in {broken[0]}: use another checkpoint")
    network.load_state_dict(own | taken)
    _report(path, trained, same, taken, left)
    return {
        "from": source, "sha256": found.digest, "classes": "same" if same else "other",
        "taken": len(taken), "not_taken": left,
    }  # fmt: skip


def _checkpoint(source: str) -> Path:
    path = Path(source)
    return path if path.suffix == ".ckpt" and path.is_file() else Run.open(path).checkpoint()


def _fits(name: str, own: Tensor, found: Any, same_classes: bool) -> bool:
    if not isinstance(found, Tensor) or found.shape != own.shape:
        return False
    return same_classes or CLASSIFIER not in name.split(".")


def _report(path: Path, trained: DatasetSpec, same: bool, taken: dict[str, Tensor], left: list[str]) -> None:
    classes = f"the same {trained.num_classes} classes" if same else f"other classes than {trained.name}"
    log.info("fine-tuning from %s, for %s: %d tensors were taken from there", path, classes, len(taken))
    if left:
        log.info("%d tensors were not, and start as in a new run: %s", len(left), ", ".join(left))
