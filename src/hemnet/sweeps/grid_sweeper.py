"""A sweeper for Hydra: a grid, as of Hydra's basic sweeper, or a union of grids."""

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
    """Launches every combination of the axes; of several grids, the combinations of each, none of them twice.

    A ``key=value,value`` of the command line takes the place of that axis in every grid that has it, else of
    the one in ``params``, and is one more of ``params`` where no grid has it. A key without commas is an axis
    of one value.

    Args:
        params: axes of all grids, as ``{key: "value,value"}`` in Hydra's grammar; they turn slowest.
        grids: further axes of each grid, likewise, by a name for the grid; a grid that is null is left out.
    """

    def __init__(
        self,
        params: Mapping[str, Any] | None = None,
        grids: Mapping[str, Mapping[str, Any] | None] | None = None,
    ) -> None:
        self.params = params or {}
        self.grids = grids or {}
        # By these names Hydra's own `validate_batch_is_legal` looks for them.
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives every sweeper."""
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
        self.validate_batch_is_legal(jobs)  # that each composes, before the first is launched
        done = self.launcher.launch(jobs, initial_job_idx=0)
        for job in done:
            _ = job.return_value  # which raises the error of a job that failed
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
