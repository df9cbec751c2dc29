"""A sweeper for Hydra: the jobs of a grid, as with Hydra's basic sweeper, or of a union of grids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hemnet.sweeps.grids import union


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
        jobs = union(self._axes(self.params), grids, self._parse(arguments))
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        self.validate_batch_is_legal(
            jobs
        )  # composes each job, so that an error comes before the first starts
        done = self.launcher.launch(jobs, initial_job_idx=0)
        for job in done:
            _ = job.return_value  # raises the error of a job that failed
        return [done]

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
        return axes
