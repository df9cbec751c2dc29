"""Train a network: ``python -m hemnet.train experiment=NAME [key=value ...]``."""

import logging
import os

import hydra
import pytorch_lightning as pl
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from hemnet.check import check, explain
from hemnet.cli import ignore_expected_warnings, print_scores, run_entry
from hemnet.compose import (
    CONF,
    build_data,
    build_evaluator,
    build_network,
    build_task,
    build_trainer,
    register_recipes,
)
from hemnet.figures import learning_curves
from hemnet.ranks import rank
from hemnet.runs import Run

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float:
    """Train and evaluate as the config says, leaving a whole run directory; return the final val/miou.

    The scores in result.json are those of the last checkpoint: nothing is chosen on the validation set.
    """
    check(config)
    if rank() != 0:
        logging.getLogger().setLevel(logging.WARNING)  # the first rank speaks for all
    run = Run.create(config.run_dir, config, config.resume)
    if run.status == "finished":
        log.info("%s is finished: nothing is left to do", run.path)
        return run.result["metrics"]["val/miou"]
    with run:
        log.info("run directory: %s", run.path)
        pl.seed_everything(config.seed, workers=True, verbose=False)
        data = build_data(config)
        network = build_network(config, data.spec.num_classes)
        task = build_task(config, network, data.spec)
        trainer = build_trainer(config)
        if run.resumes_from:
            log.info("going on after step %d", run.saved_step)
        trainer.fit(task, datamodule=data, ckpt_path=run.resumes_from, weights_only=True)
        run.record(steps=trainer.global_step)
        (scores,) = build_evaluator(config).validate(task, datamodule=data, verbose=False)
        run.record(metrics=scores)
        if trainer.is_global_zero:
            learning_curves(run.metrics(), run.figure("learning_curves.png"))
            print_scores(scores, data.spec.classes, f"{config.name}, seed {config.seed}")
            log.info("val/miou %.4f; everything is in %s", scores["val/miou"], run.path)
    return scores["val/miou"]


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _main(config: DictConfig) -> float:
    return train(config)


def _entry() -> None:
    ignore_expected_warnings()
    register_recipes()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors, and they can be explained
    try:
        _main()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error


if __name__ == "__main__":
    run_entry(_entry)
