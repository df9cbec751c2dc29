"""Train a network: ``python -m hemnet.train experiment=NAME [key=value ...]``."""

import hemnet.lab

import json
import logging
import logging.config
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hemnet.config.application import as_job, start
from hemnet.config.command_line import ignore_expected_warnings, log_to_terminal, print_scores, run_entry
from hemnet.config.feasible import check_batch_values, check_deterministic, check_monitors, check_training
from hemnet.config.paths import CONF
from hemnet.config.resuming import resumed
from hemnet.processes.launch import RankError, run_ranks
from hemnet.processes.ranks import rank
from hemnet.processes.signals import Interrupted, foremost, interruptible
from hemnet.runs.identity import debugging
from hemnet.runs.run import ENVIRONMENT, RESULT, Run
from hemnet.runs.training_run import TrainingRun
from hemnet.storage.files import read_json
from hemnet.sweeps import plugins

log = logging.getLogger(__name__)
AS_RANK = "--as-rank"


def train(config: DictConfig) -> float:
    """Train and evaluate as the config says, leaving a whole run directory; return the final val/miou.

    The scores in result.json are those of the last checkpoint on the whole validation split: nothing is
    chosen on it. A run that was limited to try the code, see `debugging`, is marked there and counts nowhere.

    Raises:
        Interrupted: a signal asked the run to stop; it is saved and can be resumed.
        HemnetError: the config is wrong, or the run cannot be made.
    """
    check_training(config)
    from hemnet.config.build import local_processes

    count = local_processes(config)
    if count > 1:
        return _train_on(config, count)
    with interruptible():
        return _train(config)


def _train_on(config: DictConfig, count: int) -> float:
    """Train with several processes of this machine, and record how the run ended if rank 0 did not."""
    path, started = Path(config.run_dir), time.monotonic()
    # Not resolved, so that the run's config.yaml has the reference to a secret and not the secret.
    given: dict[str, Any] = {"config": OmegaConf.to_container(config), "run_dir": str(path)}
    if HydraConfig.initialized():
        given["logs"] = OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)
    before = _state(path)
    try:
        run_ranks([sys.executable, "-m", "hemnet.train", AS_RANK], count, json.dumps(given).encode())
    except (RankError, Interrupted) as error:
        said = read_json(path / RESULT)
        changed = not before or _state(path) != before
        began = (path / "config.yaml").is_file() and changed
        if not began or (said and getattr(error, "rank", 0) == 0):
            raise  # there is no run, or its first rank has recorded the error
        with TrainingRun.open(path) as run:
            known = {key: said[key] for key in ("steps", "metrics") if said.get(key)}
            run.record(seconds=run.seconds(started), **(run.progress() | known))
            if isinstance(error, RankError) and "error" in said:
                # Either error may be the cause of the other, so the user sees both.
                raise RankError(f"{error}. Rank 0: {said['error']}", error.rank) from error
            raise
    return Run.open(path).score


def _state(path: Path) -> tuple[Any, ...]:
    """Return what changes when the run in a directory begins, goes on or ends; () if that tells nothing."""
    written = path / ENVIRONMENT
    found = read_json(path / RESULT), written.stat().st_mtime_ns if written.is_file() else 0
    return found if any(found) else ()


def _rank() -> None:
    """Be one of the processes of `_train_on`."""
    given = json.load(sys.stdin)
    log_to_terminal()
    if rank() == 0 and "logs" in given:
        logging.config.dictConfig(given["logs"])
    config = OmegaConf.create(given["config"])
    config.run_dir = given["run_dir"]
    train(config)


def _train(config: DictConfig) -> float:
    # Imported here, since they take seconds, which --help and an error of the configuration do without.
    import pytorch_lightning as pl

    from hemnet.callbacks.class_frequencies import ClassFrequencies
    from hemnet.callbacks.label_check import LabelCheck
    from hemnet.callbacks.run_record import RunRecord
    from hemnet.config import finetune
    from hemnet.config.advice import advice
    from hemnet.config.build import build_data, build_network, build_task, build_trainer
    from hemnet.config.refusals import refusals
    from hemnet.figures.scores import learning_curves

    if rank() != 0:
        logging.getLogger().setLevel(logging.WARNING)  # the first rank logs what all of them would
    run = TrainingRun.create(config.run_dir, config, config.resume, begin=False)
    if run.complete:
        log.info("%s is finished: nothing is left to do", run.path)
        return run.score
    with run, refusals(config), foremost():
        log.info("run directory: %s", run.path)
        pl.seed_everything(config.seed, workers=True, verbose=False)
        data = build_data(config)
        # A resumed run takes its weights from the checkpoint, and needs no pretrained ones.
        network = build_network(config, data.spec.num_classes, pretrained=run.resumes_from is None)
        weights = finetune.start(run, network, data.spec)
        task = build_task(config, network, data.spec)
        check_monitors(config, task)
        labels, record = LabelCheck(), RunRecord(run)
        trainer = build_trainer(config, [ClassFrequencies(), labels, record], run.extended, weights)
        check_batch_values(config, trainer, network, data)
        check_deterministic(config, trainer, network)
        if trainer.is_global_zero:
            for said in advice(config, data, trainer.world_size):
                log.warning("%s", said)
        if run.resumes_from:
            log.info("going on after step %d", run.saved_step)
        trainer.fit(task, datamodule=data, ckpt_path=run.resumes_from, weights_only=True)
        scores = record.scores
        if labels.warnings:
            run.record(warnings=labels.warnings)
        if trainer.is_global_zero:
            learning_curves(run.metrics(), run.figure("learning_curves.png"))
            print_scores(scores, data.spec.classes, f"{config.name}, seed {config.seed}")
            log.info("val/miou %.4f; everything is in %s", scores["val/miou"], run.path)
            if limits := debugging(config):
                log.warning("this run counts nowhere, because of %s", ", ".join(limits))
    return scores["val/miou"]


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _main(config: DictConfig) -> float:
    return as_job(lambda composed: train(resumed(composed, HydraConfig.get().overrides.task)), config)


def _entry() -> None:
    ignore_expected_warnings()
    if sys.argv[1:] == [AS_RANK]:
        _rank()
        return
    plugins.register()
    start(_main)


if __name__ == "__main__":
    run_entry(_entry)
