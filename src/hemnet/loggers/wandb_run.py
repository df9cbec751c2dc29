"""Weights & Biases: a logger that never prompts, and never blocks or ends training."""

import functools
import logging
import math
import os
import re
import secrets
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import DummyExperiment, rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from hemnet.loggers import AGENT, ITERATION, STEP
from hemnet.loggers.wandb_guard import Guard, api_key, end_service, obstacle, require_space
from hemnet.runs.metrics_csv import curves, read
from hemnet.runs.phases import PHASES, phases
from hemnet.runs.redaction import without_secrets

log = logging.getLogger(__name__)
IOU = "val/iou/"
LONGEST_TAG = 64  # characters; W&B rejects a run with a longer tag
Mode = Literal["online", "offline", "disabled"]
# How long W&B may hold up training: to start, of which to register the run; for a call; to finish, of which
# to upload what is left; and in total.
START_SECONDS = 14.0
REGISTER_SECONDS = 6.0
CALL_SECONDS = 5.0
FINISH_SECONDS = 11.0
UPLOAD_SECONDS = 8.0
ALL_SECONDS = 26.0


def _guarded(method: Callable[..., Any]) -> Callable[..., None]:
    """Wrap a method of the logger: it starts the run if needed, and can neither end nor hold up training."""

    @rank_zero_only
    @functools.wraps(method)
    def call(self: "FinishingWandbLogger", *arguments: Any, **named: Any) -> None:
        _ = self.experiment
        self.guard(lambda: method(self, *arguments, **named), CALL_SECONDS)

    return call


class FinishingWandbLogger(WandbLogger):
    """Logs one run: online if there are a key and a reachable server, otherwise offline.

    The W&B run starts when something is first logged, and ends with training, even if that fails. Its id is
    in ``save_dir/wandb/id.txt``, so that a resumed training continues its run. Under a W&B agent the run is
    the agent's; otherwise ``WANDB_RUN_ID`` is ignored, since every job of a sweep would inherit it.

    If a call into W&B fails or is late, or its calls take 26 s in total, W&B is given up for this run with a
    warning, and training continues.

    Args:
        save_dir: the folder for the W&B files of the run; ``wandb sync`` uploads them later.
        project: the W&B project.
        name: the run's name; null lets W&B choose.
        group: the group of runs; null takes the group given to `describe`.
        tags: tags of the run, besides those given to `describe`.
        mode: ``online``, ``offline`` or ``disabled``; null takes ``WANDB_MODE``, or ``online`` if that is not
            set. ``online`` becomes offline if there is no key or server.

    Raises:
        ValueError: ``WANDB_MODE`` is none of the modes.
    """

    def __init__(
        self,
        save_dir: str | Path,
        project: str = "hemnet",
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Mode | None = None,
    ) -> None:
        super().__init__(name=name, save_dir=save_dir, project=project)
        self.directory = Path(save_dir)
        self.mode: Mode = mode or _mode_of_environment()
        self._about: dict[str, Any] = {"project": project, "name": name, "group": group, "tags": tags or []}
        self._iou: dict[str, float] = {}
        self.guard = Guard(self._give_up, ALL_SECONDS)

    def describe(self, group: str, job_type: str, tags: Sequence[str], config: Mapping[str, Any]) -> None:
        """Describe the run to W&B; to be called before anything is logged.

        Args:
            group: the group of runs, unless the constructor was given one.
            job_type: the kind of run.
            tags: tags besides those given to the constructor; all are cut at 64 characters.
            config: plain containers without secrets, uploaded unchanged.
        """
        labels = dict.fromkeys(tag[:LONGEST_TAG] for tag in [*tags, *self._about["tags"]] if tag)
        self._about |= {"job_type": job_type, "tags": list(labels), "config": dict(config)}
        self._about["group"] = self._about["group"] or group

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started at the first access; a run that does nothing on other ranks or without W&B."""
        if self._experiment is None:
            self._experiment = self.guard(self._start, START_SECONDS)
        return DummyExperiment() if self._experiment is None else self._experiment

    def _start(self) -> Any:
        import wandb  # here, since the import takes a second

        end_service()  # else W&B would continue a run that an earlier job of this process left open
        problem = obstacle() if self.mode == "online" else None
        if problem:
            self.mode = "offline"
            log.info("W&B is offline: %s; upload later with `%s`", problem, self.sync_command)
        try:
            run = self._init(self.mode)
        except (wandb.Error, OSError) as error:
            if self.mode != "online":
                raise
            self.mode = "offline"
            log.warning("W&B could not start online (%s); this run is logged offline", error)
            end_service()
            run = self._init(self.mode)
        # W&B draws every metric over the optimizer step. The summary of a metric is its last value.
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run

    def _give_up(self, problem: str) -> None:
        log.warning(
            "W&B is given up for this run (%s); training continues, and metrics.csv has all numbers. "
            "What was logged to W&B until now can be uploaded with `%s`", problem, self.sync_command,
        )  # fmt: skip

    def _init(self, mode: Mode) -> Any:
        import wandb

        settings = wandb.Settings(
            mode=mode,
            # Without a key W&B asks for one on the terminal, which blocks the end of the process.
            api_key=api_key() if mode == "online" else None,
            silent=True,
            init_timeout=REGISTER_SECONDS,
            finish_timeout=UPLOAD_SECONDS,
            finish_timeout_raises=True,
            console="off",
            # Command lines and paths may hold secrets; environment.json has what is safe of them.
            x_disable_meta=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
        )
        options: dict[str, Any] = {**without_secrets(self._about), "dir": str(self.directory)}
        self.directory.mkdir(parents=True, exist_ok=True)
        if "WANDB_SWEEP_ID" in os.environ:  # W&B then takes project and id from its agent
            del options["project"]
            run = wandb.init(**options, settings=settings)
            for name in AGENT:
                os.environ.pop(name, None)
        else:
            run = wandb.init(**options, id=self._kept_id(), resume="allow", settings=settings)
        if mode != "disabled":
            self._id_file.parent.mkdir(exist_ok=True)
            self._id_file.write_text(run.id + "\n", "utf-8")
        return run

    @property
    def _id_file(self) -> Path:
        return self.directory / "wandb" / "id.txt"

    def _kept_id(self) -> str:
        """Return the id stored in the directory, else a new one, independent of the random seed."""
        kept = self._id_file.read_text("utf-8", "replace").strip() if self._id_file.is_file() else ""
        return kept if re.fullmatch(r"[\w-]{1,64}", kept) else secrets.token_hex(5)

    @property
    def sync_command(self) -> str:
        """The command that uploads an offline run, all parts of a resumed one in their order."""
        kind = "offline-run" if self.mode == "offline" else "run"
        return f"wandb sync {shlex.quote(str(self.directory))}/wandb/{kind}-*"

    @_guarded
    def log_hyperparams(self, params: Any) -> None:
        """Add to the configuration that W&B shows with the run."""
        super().log_hyperparams(params)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **named: Any) -> None:
        """Log images at an optimizer step."""
        self.guard.here(lambda: super(FinishingWandbLogger, self).log_image(key, images, step, **named))

    @_guarded
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers, or W&B objects such as images, at an optimizer step."""
        self._iou |= {key.removeprefix(IOU): value for key, value in metrics.items() if key.startswith(IOU)}
        super().log_metrics(metrics, step)

    @rank_zero_only
    def log_histogram(self, key: str, values: Sequence[float], step: int) -> None:
        """Log a histogram of the finite values; nothing is logged if there are none."""
        import wandb

        finite = [float(value) for value in values if math.isfinite(value)]
        if finite:
            self.log_metrics({key: wandb.Histogram(finite)}, step)

    @_guarded
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Put the best value of the monitored metric into the summary, such as ``val/miou_best``.

        The value comes from the checkpoint callback, which keeps it when training is resumed.
        """
        super().after_save_checkpoint(checkpoint_callback)
        if checkpoint_callback.monitor and checkpoint_callback.best_model_score is not None:
            best = float(checkpoint_callback.best_model_score)
            self.experiment.summary[f"{checkpoint_callback.monitor}_best"] = best

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finish the run; Lightning calls this with status ``success`` or ``failed``.

        The IoU of each class at the last validation is logged as the table ``val/iou_table``, and what
        metrics.csv has per iteration of EM as curves over ``ITERATION``, see `_log_iterations`.
        """
        super().finalize(status)
        if self._experiment is None:
            return
        if self._iou:
            rows = [[name, float(iou)] for name, iou in self._iou.items()]
            self.guard.here(lambda: self.log_table("val/iou_table", ["class", "IoU"], rows))
        self.guard.here(self._log_iterations)
        run = self._experiment
        self.guard(lambda: run.finish(exit_code=0 if status == "success" else 1), FINISH_SECONDS)
        if self.mode != "disabled":
            self.guard.here(lambda: require_space(self.directory / "wandb"))
        end_service()  # without waiting for further uploads, which would hold up the end of the process
        if self.mode == "offline" and not self.guard.failed:
            log.info("upload the W&B run with `%s`", self.sync_command)

    def _log_iterations(self) -> None:
        """Log each per-iteration metric of metrics.csv over `ITERATION`, as ``end/gradient/share`` and the
        like.

        A value is the mean over the start, the middle or the end of training, see `hemnet.runs.phases`.
        """
        run = self.experiment
        try:
            found = phases(curves(read(self.directory / "metrics.csv")))
        except (OSError, ValueError) as error:
            log.warning("metrics.csv: %s; W&B gets no curves over the iterations of EM", error)
            return
        run.define_metric(ITERATION)
        for name in (f"{phase}/{family}" for phase in PHASES for family in found):
            run.define_metric(name, step_metric=ITERATION)
        for t in range(max((len(values[0]) for values in found.values()), default=0)):
            row = {
                f"{phase}/{family}": float(values[p, t])
                for family, values in found.items()
                for p, phase in enumerate(PHASES)
                if t < values.shape[1] and math.isfinite(values[p, t])
            }
            run.log({ITERATION: t} | row)


wandb_logger = FinishingWandbLogger  # the name in configurations


def _mode_of_environment() -> Mode:
    value: Any = os.environ.get("WANDB_MODE") or "online"
    if value not in get_args(Mode):
        raise ValueError(f"WANDB_MODE is {value!r}: unset it, or set one of {', '.join(get_args(Mode))}")
    return value
