"""A launcher for Hydra: each job of a multirun is a process of its own; finished jobs are not run again."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from hemnet.config.check import absolute_path
from hemnet.config.paths import CONF
from hemnet.runs.redaction import without_secrets
from hemnet.sweeps.jobs import Job
from hemnet.sweeps.sweep import run_sweep

PLACED = ("hydra.sweep.", "resume=")
"""Prefixes of overrides that are not passed to a job: `Job.command` sets run_dir and resume itself."""


class ProcessLauncher(Launcher):
    """Runs the jobs of a multirun as processes, several at a time, and skips those that are finished.

    Args:
        parallel: how many jobs run at a time; None is as many as there are GPUs for, or 1 on CPU.
        devices: ids of the GPUs to share out, ``trainer.devices`` to each job; None is all that are visible.
    """

    def __init__(self, parallel: int | None = None, devices: list[int | str] | None = None) -> None:
        self.parallel = parallel
        self.devices = devices
        self._context: HydraContext | None = None
        self._config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives to every launcher before it launches."""
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs with these overrides; raise an error at the end if any of them failed."""
        assert self._config is not None
        folder = Path(absolute_path(self._config.hydra.sweep.dir, "hydra.sweep.dir"))
        jobs, configs = [], []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config = self._compose(overrides, number)
            path = folder / str(config.hydra.sweep.subdir)
            given = self._given([each for each in overrides if not each.startswith(PLACED)])
            with open_dict(config):
                del config.hydra
                config.run_dir = str(path)
            jobs.append(Job(path.name, path, given))
            configs.append(config)
        _hide_secrets(folder / "multirun.yaml")
        devices = None if self.devices is None else list(self.devices)
        run_sweep(jobs, configs, folder, self.parallel, devices)
        return [
            JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=job.miou)
            for job in jobs
        ]

    def _given(self, overrides: Sequence[str]) -> list[str]:
        """Return the arguments of a job: its overrides, and what Hydra itself was given for the sweep.

        The second are the options that say where configurations are found, and ``hydra.*``, except those
        that make a sweep of it.
        """
        assert self._config is not None
        hydra = self._config.hydra
        options = [f"--config-name={hydra.job.config_name}"] if hydra.job.config_name != "train" else []
        for source in hydra.runtime.config_sources:
            if source.provider == "command-line":
                options.append(f"--config-dir={source.path}")
            if source.provider == "main" and source.path != str(CONF):
                options.append(f"--config-path={source.path}")
        own = (
            "hydra.mode=",
            "hydra.run.",
            "hydra.sweep",
            "hydra.launcher",
            "hydra/sweep",
            "hydra/launch",
        )
        kept = [each for each in hydra.overrides.hydra if not each.lstrip("+~").startswith(own)]
        return [*options, *kept, *overrides]

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        assert self._context is not None
        assert self._config is not None
        config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config


def _hide_secrets(path: Path) -> None:
    """Remove the secrets from the file in which the sweeper has stored the sweep's configuration."""
    if path.is_file():
        OmegaConf.save(OmegaConf.create(without_secrets(OmegaConf.to_container(OmegaConf.load(path)))), path)
