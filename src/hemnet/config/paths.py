"""Paths of ``conf/`` and ``experiments/``, and the lookup of a recipe by name.

The build puts ``conf/`` and the YAML files of ``experiments/`` into the package. In a checkout both folders
are at the top of the repository. Folders of the same names in the user's own packages and in the working
folder add to them.
"""

from importlib.util import find_spec
from pathlib import Path

from hemnet.errors import HemnetError
from hemnet.runs.own_packages import own_packages


def shipped(folder: str) -> Path:
    """Return the folder ``conf`` or ``experiments``: that in the package, or that of the checkout."""
    package = Path(__file__).parents[1]
    installed, checkout = package / folder, package.parents[1] / folder
    return installed if installed.is_dir() else checkout


CONF = shipped("conf")
EXPERIMENTS = shipped("experiments")


def own_folders(name: str) -> list[Path]:
    """Return the folders of a name in the user's own packages, then that in the working folder."""
    roots = [Path(place) for package in own_packages() for place in _places(package)]
    return [root / name for root in (*roots, Path.cwd()) if (root / name).is_dir()]


def _places(package: str) -> list[str]:
    """Return the folders of a package, which is not imported unless it lies in another one."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return []
    return list(spec.submodule_search_locations or []) if spec else []


def parts() -> dict[tuple[str, str], Path]:
    """Return the files of the user's own ``conf`` folders by group and name, but for names that hemnet has.

    Of two files with one name, that of the working folder is returned. The working folder may be a checkout
    of hemnet, and the package another one: Hydra would not take two files of one name.
    """
    found = {}
    for folder in own_folders("conf"):
        for path in sorted(folder.glob("*/**/*.yaml")):
            place = path.relative_to(folder)
            if not (CONF / place).exists():
                found[place.parent.as_posix(), path.stem] = path
    return found


def recipes(kind: str = ".") -> dict[str, Path]:
    """Return the files of one kind by name: those shipped, those of own packages, and those in ./experiments.

    Of two files with one name, the last one is returned.

    Args:
        kind: a folder in ``experiments/``: ``sweeps``, ``evaluations`` or ``searches``; "." is the recipes'.
    """
    folders = (EXPERIMENTS / kind, *(folder / kind for folder in own_folders("experiments")))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def recipe(kind: str, name: str) -> Path:
    """Return the file ``experiments/KIND/NAME.yaml``.

    Raises:
        HemnetError: neither the working folder nor this installation has it; the message lists what exists.
    """
    found = recipes(kind)
    if name not in found:
        known = ", ".join(sorted(found))
        raise HemnetError(f"no file experiments/{kind}/{name}.yaml, here or shipped: known are {known}")
    return found[name]
