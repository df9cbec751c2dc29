"""A sweeper for Hydra: the jobs of a grid, as with Hydra's basic sweeper, or of a union of grids."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from hemnet.config.check import absolute_path
from hemnet.config.feasible import check_training
from hemnet.config.overrides import quoted
from hemnet.errors import HemnetError
from hemnet.sweeps.grids import union
from hemnet.sweeps.names import Jobs, job_names


class GridSweeper(Sweeper):
    """Launches a job for every combination of the axes of a grid; with several grids, none of the jobs twice.

    A ``key=value,value`` on the command line replaces the axis of that key in every grid that has one. If no
    grid has it, it replaces the axis in ``params``, or is added to them. A value without commas is an axis of
    one value.

    Args:
        params: the axes of all grids, as ``{key: "value,value"}`` in Hydra's grammar; they vary slowest.
        grids: by the name of a grid, its further axes; None leaves out a grid of that name.
    """

    def __init__(
        self,
        params: Mapping[str, Any] | None = None,
        grids: Mapping[str, Mapping[str, Any] | None] | None = None,
    ) -> None:
        self.params = params or {}
        self.grids = grids or {}
        # Hydra's method `validate_batch_is_legal` reads the attributes of these names.
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives to every sweeper before it sweeps, and make its launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launch all jobs as one batch; ``arguments`` are those of the command line."""
        assert self.config is not None
        assert self.launcher is not None
        grids = {name: self._axes(grid) for name, grid in self.grids.items() if grid is not None}
        shared = self._axes(self.params)
        jobs = union(shared, grids, self._parse(arguments))
        folder = Path(absolute_path(self.config.hydra.sweep.dir, "hydra.sweep.dir"))
        axes = {key: values for grid in (shared, *grids.values()) for key, values in grid.items()}
        jobs = self._placed(jobs, axes, folder)
        # Errors of composing, and those that all jobs have, come before anything is written.
        self.validate_batch_is_legal(jobs)
        self._require_one_right(jobs)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml", resolve=False)
        done = self.launcher.launch(jobs, initial_job_idx=0)
        for job in done:
            _ = job.return_value  # raises the error of a job that failed
        return [done]

    def _placed(self, jobs: Jobs, axes: Mapping[str, Sequence[str]], folder: Path) -> list[list[str]]:
        """Append to each job the folder it runs in, and resume=auto, so that any launcher continues it."""
        assert self.config is not None
        pinned = [f"hydra.sweep.dir={quoted(folder)}"]
        if not any(each.startswith("resume=") for each in jobs[0]):
            pinned.append("resume=auto")
        if "${hemnet.job_name:" not in OmegaConf.to_container(self.config.hydra.sweep)["subdir"]:  # type: ignore[call-overload, index]
            return [[*job, *pinned] for job in jobs]
        names = job_names(jobs, axes, folder, self._compose)
        return [
            [*job, *pinned, f"hydra.sweep.subdir={quoted(name)}"]
            for job, name in zip(jobs, names, strict=True)
        ]

    def _require_one_right(self, jobs: Jobs) -> None:
        """Raise an error if no job can start; if one can, each other one fails by itself.

        Raises:
            HemnetError: the configuration of every job is wrong.
        """
        errors: dict[str, HemnetError] = {}
        for job in jobs:
            try:
                return check_training(self._compose(job))
            except HemnetError as error:
                errors[str(error)] = error
        if len(errors) == 1:
            raise next(iter(errors.values()))
        raise HemnetError(f"none of the {len(jobs)} jobs can start:\n  " + "\n  ".join(errors))

    def _compose(self, job: Sequence[str]) -> DictConfig:
        assert self.hydra_context is not None
        assert self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(job))
        with open_dict(config):
            del config.hydra
        return config

    def _axes(self, axes: Mapping[str, Any]) -> dict[str, list[str]]:
        return self._parse([f"{key}={values}" for key, values in axes.items()])

    def _parse(self, overrides: list[str]) -> dict[str, list[str]]:
        """Return the ``key=value`` of each value of each axis, by its key."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        axes = {}
        for override in parser.parse_overrides(overrides):
            key = override.get_key_element()
            if not override.is_sweep_override():
                axes[key] = [f"{key}={override.get_value_element_as_str()}"]
            elif override.is_discrete_sweep():
                axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise HydraException(f"{override.input_line}: a sweep needs values, not an interval")
            if not axes[key]:
                raise HydraException(f"{override.input_line}: there is no value: give one or more")
        return axes
