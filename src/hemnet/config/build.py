"""From a configuration to objects: the only caller of Hydra's ``instantiate``."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import DDPStrategy

from hemnet.config.explain import ConfigError
from hemnet.config.machine import check_batch_statistics, devices_to_use, gpu_count
from hemnet.config.refusals import refusal
from hemnet.config.targets import require_known_targets
from hemnet.config.trained import EVALUATION
from hemnet.data import DatasetSpec, EvalTransform, Reader, SegmentationData, Transform
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.processes.launch import launched
from hemnet.runs.identity import debugging, identity
from hemnet.runs.redaction import redacted
from hemnet.runs.run import Checkpoint, Run
from hemnet.runs.run_settings import columns
from hemnet.runs.stored_config import PARTS
from hemnet.training.inference import Inference
from hemnet.training.task import SegmentationTask
from hemnet.wording import counted, one_line

log = logging.getLogger(__name__)


def _build(config: DictConfig, key: str, **given: Any) -> Any:
    """Instantiate the node at ``key``, with the further arguments ``given``."""
    try:
        node = OmegaConf.select(config, key)
        if not isinstance(node, DictConfig):
            raise ConfigError(f"{key} is {node!r}; it must have keys, _target_ among them")
        return _call(OmegaConf.to_container(node, resolve=True), key, **given)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from error


def _call(node: Any, key: str, **given: Any) -> Any:
    """Instantiate a node; an error of the constructor becomes one that names the node's key."""
    require_known_targets(node, key)
    try:
        # A partial, called: Hydra would copy arguments that are passed to `instantiate`.
        return instantiate(node, _convert_="all", _partial_=True)(**given)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, HemnetError):
            raise cause from error
        if key.startswith("model.") and isinstance(cause, RuntimeError | ArithmeticError):
            # torch cannot make a layer of this size. It is no lack of memory for images: there are none yet.
            raise ConfigError(f"{key}: {one_line(cause)}") from error
        if (said := refusal(cause, node, key)) is not None:
            raise said from error
        if isinstance(cause, ValueError | TypeError):
            raise ConfigError(f"{key}: {one_line(cause)}") from error
        raise


def build_data(config: DictConfig) -> SegmentationData:
    """Return the data module. Its readers list their files now, and raise errors about missing data."""
    return _call(_data_node(config), "data")


def build_evaluation_data(config: DictConfig) -> SegmentationData:
    """Return the data module for evaluation. The training split is not looked at, and may be missing."""
    node = _data_node(config)
    reader = _call(node.pop("val"), "data.val")
    del node["train"]
    # The module wants a training split that has a batch, and a transform for it; neither is used.
    unused = {"batch_size": 1, "train_transform": node["eval_transform"]}
    return _call(node | unused, "data", train=reader, val=reader)


def build_reader(config: DictConfig, split: Literal["train", "val"]) -> Reader:
    """Return the reader of one split. The files of the other split may be missing."""
    return _call(_data_node(config)[split], f"data.{split}")


def _data_node(config: DictConfig) -> Any:
    """Return the node of the data, with its root copied into the nodes of the readers."""
    node: Any = OmegaConf.to_container(config.data, resolve=True)
    if "root" in node:
        root = node.pop("root")
        for split in ("train", "val"):
            node[split].setdefault("root", root)
    return node


def build_train_transform(config: DictConfig) -> Transform:
    """Return the augmentation of training."""
    return _build(config, "data.train_transform")


def build_eval_transform(config: DictConfig) -> EvalTransform:
    """Return the transform of evaluation; no data set is needed."""
    return _build(config, "data.eval_transform")


def build_network(config: DictConfig, num_classes: int, *, pretrained: bool = True) -> Segmenter:
    """Return the network for ``num_classes``; without ``pretrained``, the backbone's weights are random.

    They are too if the run is fine-tuned, since `hemnet.config.finetune` replaces them.
    """
    pretrained = pretrained and config.get("finetune") is None
    unloaded = {} if pretrained or "weights" not in config.model.backbone else {"weights": None}
    backbone = _build(config, "model.backbone", **unloaded)
    heads = {}
    for role in ("head", "auxiliary"):
        if OmegaConf.select(config, f"model.{role}"):  # {} means that there is none
            heads[role] = _build(
                config, f"model.{role}", in_channels=backbone.channels, num_classes=num_classes
            )
    return Segmenter(backbone, **heads)


def build_task(config: DictConfig, network: Segmenter, spec: DatasetSpec) -> SegmentationTask:
    """Return the LightningModule around a network."""
    return _build(config, "task", network=network, spec=spec, optimization=_build(config, "optim"))


def build_inference(config: DictConfig) -> Inference:
    """Return how evaluation and prediction run the network."""
    return _build(config, "inference")


def build_trainer(
    config: DictConfig,
    callbacks: Sequence[pl.Callback] = (),
    extended: Sequence[Mapping[str, Any]] = (),
    weights: str | None = None,
) -> pl.Trainer:
    """Return the trainer with the configured loggers and callbacks, and after them the given ``callbacks``.

    A logger or callback whose node is null is left out, and all of them if that of the group is. Trackers are
    told where the run was ``extended``, see `TrainingRun.extended`, and the SHA-256 of the ``weights`` that
    it was fine-tuned from.
    """
    parts: dict[str, list[Any]] = {
        group: [_build(config, f"{group}.{name}") for name, node in nodes.items() if node is not None]
        for group in ("callbacks", "logger")
        for nodes in [config[group] or {}]
    }
    parts["callbacks"] += callbacks
    trainer = _build_trainer(config, default_root_dir=config.run_dir, **parts)
    for logger in parts["logger"]:
        _describe(logger, config, columns(config, extended, trainer.world_size, weights))
    on_cpu = isinstance(trainer.accelerator, CPUAccelerator)
    check_batch_statistics(config, ranks_on_cpu=on_cpu and isinstance(trainer.strategy, DDPStrategy))
    if trainer.world_size > 1 and not config.trainer.sync_batchnorm:
        log.info(
            "batch normalisation sees the %d images of its own process; trainer.sync_batchnorm=true shows it "
            "those of all, on GPUs", config.data.batch_size,
        )  # fmt: skip
    return trainer


def _build_trainer(config: DictConfig, **given: Any) -> pl.Trainer:
    if config.trainer.get("deterministic") and config.trainer.get("benchmark"):
        # A cuDNN search picks by timing, so not always the same algorithm.
        given["benchmark"] = False
    return _build(config, "trainer", **given)


def _describe(logger: Any, config: DictConfig, further: dict[str, Any]) -> None:
    """Give a tracker the configuration without secrets, and group, job type and tags if it takes them."""
    about = identity(config)
    config = redacted(config)
    nested: Any = OmegaConf.to_container(config)
    described = nested | further
    if not hasattr(logger, "describe"):
        logger.log_hyperparams(described)
        return
    group = about.sweep or about.experiment
    tags = [*about.tags(), *(["debug"] if debugging(config) else [])]
    tags += ["not conclusive"] if config.get("conclusive") is False else []
    logger.describe(group=group, job_type=about.head, tags=tags, config=described)


def local_processes(config: DictConfig) -> int:
    """Return how many processes this one must start for a run; 1 means that it does the run itself.

    Raises:
        ConfigError: the run needs several machines, and neither torchrun nor srun started this process; or
            the strategy would start processes by itself; or see `devices_to_use`, `check_batch_statistics`.
    """
    trainer = config.trainer
    if launched():
        return 1
    if trainer.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes is {trainer.num_nodes}: start the run on each machine, by torchrun or srun; "
            "docs/scaling.md has the commands"
        )
    count = devices_to_use(trainer)
    if count > 1 and any(way in str(trainer.strategy) for way in ("spawn", "fork", "notebook")):
        raise ConfigError(f"trainer.strategy is {trainer.strategy}: processes are started here; use ddp")
    if count > 1:  # here, since each process would repeat the error
        check_batch_statistics(config, ranks_on_cpu=gpu_count(trainer.accelerator) == 0)
    return count


def build_evaluator(config: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> pl.Trainer:
    """Return a trainer that evaluates the whole split and writes no files.

    Nothing that limits training, such as ``limit_val_batches`` or ``fast_dev_run``, concerns it.

    Args:
        config: the configuration, for a trained run that of `hemnet.config.machine.on_this_machine`.
        callbacks: those of the evaluation; the configured ones are of training.
    """
    trainer = config.trainer
    kept = OmegaConf.masked_copy(trainer, [name for name in EVALUATION if name in trainer])
    # The last, which is torch's setting for the process, may be left over from a training in it.
    off = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar", "benchmark"), False
    )
    return _call(OmegaConf.to_container(kept, resolve=True), "trainer", callbacks=[*callbacks], **off)


def network_in(checkpoint: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], DatasetSpec]:
    """Return what a checkpoint of a run holds of its network: the tensors by their names, and the classes.

    Args:
        checkpoint: the contents.
        path: of the file, for messages.

    Raises:
        HemnetError: the checkpoint lacks one of the two.
    """
    prefix = "network."
    try:
        spec = DatasetSpec.from_dict(checkpoint["hemnet"]["spec"])
        every = {str(name): value for name, value in checkpoint["state_dict"].items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise HemnetError(f"{path} lacks the weights or their classes ({error!r}): use another") from error
    state = {name.removeprefix(prefix): value for name, value in every.items() if name.startswith(prefix)}
    return state, spec


def restore(run: Run, which: Checkpoint = "last") -> tuple[Segmenter, DatasetSpec]:
    """Return the trained network of a run, in eval mode on the CPU, and its classes; no data set is needed.

    Raises:
        HemnetError: the checkpoint is missing, damaged, of another network, or has weights that are not
            finite; or a part of the run's configuration is missing.
    """
    if missing := [key for key in PARTS if key not in run.config]:
        raise ConfigError(f"{run.path / 'config.yaml'} lacks {', '.join(missing)}: restore the file")
    path = run.checkpoint(which)
    state, spec = network_in(run.load(which).content, path)
    network = build_network(run.config, spec.num_classes, pretrained=False)
    try:
        network.load_state_dict(state)
    except (RuntimeError, NotImplementedError) as error:
        reason = one_line(error, 500)
        raise HemnetError(f"{path} is not of the network in {run.path / 'config.yaml'}: {reason}") from error
    broken = [name for name, value in network.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise HemnetError(
            f"{path}: {counted(len(broken), 'tensor')} with NaN or infinity (first: {broken[0]}), so what it "
            "predicts means nothing: use another checkpoint, or train anew"
        )
    return network.eval(), spec
