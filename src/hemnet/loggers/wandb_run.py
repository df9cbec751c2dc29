"""Weights & Biases: a logger that never prompts, blocks or ends training, and whose run ends with it."""

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

from hemnet.loggers.wandb_guard import Guard, api_key, end_service, obstacle, require_space
from hemnet.runs.redaction import without_secrets

log = logging.getLogger(__name__)
STEP = "trainer/global_step"
IOU = "val/iou/"
LONGEST_TAG = 64  # W&B refuses the whole run for a longer one
Mode = Literal["online", "offline", "disabled"]
# By these an agent of W&B hands its run to the process that it starts: for one run, not for the next too.
AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
# What W&B may take of a training's time, whatever happens to it: to start, for a call, to finish, in all.
REGISTER_SECONDS = 6.0
START_SECONDS = 14.0
CALL_SECONDS = 5.0
UPLOAD_SECONDS = 8.0  # of these in FINISH_SECONDS, for what is left at the end
FINISH_SECONDS = 11.0
ALL_SECONDS = 26.0


def _guarded(method: Callable[..., Any]) -> Callable[..., None]:
    """Make a method of the logger one that starts the run if need be, and cannot end or hold up training."""

    @rank_zero_only
    @functools.wraps(method)
    def call(self: "FinishingWandbLogger", *arguments: Any, **named: Any) -> None:
        _ = self.experiment
        self.guard(lambda: method(self, *arguments, **named), CALL_SECONDS)

    return call


class FinishingWandbLogger(WandbLogger):
    """Logs one run, online if there are a key and a reachable server, else offline.

    The W&B run starts with the first thing logged and ends with training, also when that fails, so that the
    process's next job starts its own. Its id is kept in ``save_dir/wandb/id.txt``: a logger that is given the
    same directory again, as one of a resumed training is, continues the run. Under a W&B agent the run is the
    agent's; otherwise ``WANDB_RUN_ID`` is not followed, since every job would inherit it.

    If W&B fails, or takes its time (26 s in all), it is given up for this run with a warning, and training
    goes on.

    Args:
        save_dir: where the W&B files of the run go; ``wandb sync`` uploads them later.
        project: W&B project.
        name: run name; null lets W&B choose.
        group: of runs that belong together; null is what `describe` says.
        tags: of the run, besides those that `describe` gives.
        mode: ``online``, ``offline`` or ``disabled``; null follows ``WANDB_MODE``, else decides as above.
            ``online`` without key or server is offline with a warning.

    Raises:
        ValueError: ``WANDB_MODE`` is none of the modes.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "hemnet",
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Mode | None = None,
    ) -> None:
        super().__init__(name=name, save_dir=save_dir, project=project)
        self.directory = Path(save_dir)
        self.mode: Mode = mode or _mode_of_environment()
        self._about: dict[str, Any] = {"group": group, "tags": tags or []}
        self._iou: dict[str, float] = {}
        self.guard = Guard(self._give_up, ALL_SECONDS)

    def describe(self, group: str, job_type: str, tags: Sequence[str], config: Mapping[str, Any]) -> None:
        """Say what the run is, before anything is logged; the composition does.

        Args:
            group: of runs that belong together, unless the constructor was given one.
            job_type: the kind of run.
            tags: labels besides those given to the constructor; cut at 64 characters.
            config: plain and without secrets: it is uploaded as it is.
        """
        labels = dict.fromkeys(tag[:LONGEST_TAG] for tag in [*tags, *self._about["tags"]] if tag)
        self._about = {
            "group": self._about["group"] or group,
            "job_type": job_type,
            "tags": list(labels),
            "config": dict(config),
        }

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started when first asked for; one that does nothing on other ranks and without W&B."""
        if self._experiment is None:
            self._experiment = self.guard(self._start, START_SECONDS)
        return DummyExperiment() if self._experiment is None else self._experiment

    def _start(self) -> Any:
        import wandb  # here, since it costs a second that a run without W&B need not pay

        end_service()  # a run left open by an earlier job of this process must not be joined
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
        # Every metric is drawn over the optimizer step. The summary of each is its last value.
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run

    def _give_up(self, problem: str) -> None:
        log.warning(
            "W&B is given up for this run (%s); training goes on, and metrics.csv has its numbers. "
            "What W&B was told until now can be uploaded with `%s`", problem, self.sync_command,
        )  # fmt: skip

    def _init(self, mode: Mode) -> Any:
        import wandb

        settings = wandb.Settings(
            mode=mode,
            # Without it, W&B asks on a terminal, and reading the answer blocks the end of the process.
            api_key=api_key() if mode == "online" else None,
            silent=True,
            init_timeout=REGISTER_SECONDS,
            finish_timeout=UPLOAD_SECONDS,
            finish_timeout_raises=True,
            console="off",
            # Command lines and paths may hold secrets: environment.json has what is safe to tell of both.
            x_disable_meta=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
        )
        about = {"project": self._project, "name": self._name, **self._about}
        options: dict[str, Any] = {**without_secrets(about), "dir": str(self.directory)}
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
            self._id_file.write_text(run.id + "\n")
        return run

    @property
    def _id_file(self) -> Path:
        return self.directory / "wandb" / "id.txt"

    def _kept_id(self) -> str:
        """Return the id kept in the directory, else a new one, drawn apart from the seed of the training."""
        kept = self._id_file.read_text().strip() if self._id_file.is_file() else ""
        return kept if re.fullmatch(r"[\w-]{1,64}", kept) else secrets.token_hex(5)

    @property
    def sync_command(self) -> str:
        """What to type to upload the run after it was offline, all parts of a resumed one in their order."""
        kind = "offline-run" if self.mode == "offline" else "run"
        return f"wandb sync {shlex.quote(str(self.directory))}/wandb/{kind}-*"

    @_guarded
    def log_hyperparams(self, params: Any) -> None:
        """Add to the configuration that is shown with the run."""
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
        """Log how values are distributed; those that are not finite are left out, and so is an empty rest."""
        import wandb

        finite = [float(value) for value in values if math.isfinite(value)]
        if finite:
            self.log_metrics({key: wandb.Histogram(finite)}, step)

    @_guarded
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Keep the best value of a watched metric in the summary, such as ``val/miou_best``.

        The checkpoint callback knows it, also after training was resumed.
        """
        super().after_save_checkpoint(checkpoint_callback)
        if checkpoint_callback.monitor and checkpoint_callback.best_model_score is not None:
            best = float(checkpoint_callback.best_model_score)
            self.experiment.summary[f"{checkpoint_callback.monitor}_best"] = best

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finish the run; Lightning calls this with ``success`` or ``failed``.

        The IoU of each class at the last validation becomes the table ``val/iou_table``.
        """
        super().finalize(status)
        if self._experiment is None:
            return
        if self._iou:
            rows = [[c, float(v)] for c, v in self._iou.items()]
            self.guard.here(lambda: self.log_table("val/iou_table", ["class", "IoU"], rows))
        run = self._experiment
        self.guard(lambda: run.finish(exit_code=0 if status == "success" else 1), FINISH_SECONDS)
        if self.mode != "disabled":
            self.guard.here(lambda: require_space(self.directory / "wandb"))
        end_service()  # what it has not uploaded by now must not hold up the end of the process
        if self.mode == "offline" and not self.guard.failed:
            log.info("upload the W&B run with `%s`", self.sync_command)


# The name in configurations.
wandb_logger = FinishingWandbLogger


def _mode_of_environment() -> Mode:
    value = os.environ.get("WANDB_MODE") or "online"
    for mode in get_args(Mode):
        if value == mode:
            return mode
    raise ValueError(f"WANDB_MODE is {value!r}: set it to one of {', '.join(get_args(Mode))}, or unset it")
