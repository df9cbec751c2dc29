"""Registers hemnet's launcher and sweeper with Hydra, in the process of ``hemnet train`` alone.

Hydra's usual way, a module in the namespace package ``hydra_plugins``, would have every Hydra application of
the environment import this project.
"""

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from hemnet.config.paths import CONF
from hemnet.sweeps.grid_sweeper import GridSweeper
from hemnet.sweeps.launcher import ProcessLauncher
from hemnet.sweeps.names import sweep_name

NAMESPACE = "hydra_plugins.hemnet"
"""Precedes the class's name in ``_target_`` of conf/hydra: Hydra refuses a plugin whose name is outside
``hydra_plugins``. There is no such module; Hydra looks the name up in its table of plugins."""


def register() -> None:
    """Register the launcher and the sweeper under the names that conf/hydra gives them, and its resolver."""
    OmegaConf.register_new_resolver("hemnet.sweep_name", sweep_name, replace=True)
    plugins = Plugins.instance()
    for plugin in (ProcessLauncher, GridSweeper):
        plugins.register(plugin)
        plugins.class_name_to_class[f"{NAMESPACE}.{plugin.__name__}"] = plugin
    # Hydra's `basic` sweeper makes a new folder each time; ours is registered as `basic` too, so that a
    # repeated command continues.
    grids = OmegaConf.load(CONF / "hydra" / "sweeper" / "grids.yaml")
    ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=grids, provider="hemnet")
