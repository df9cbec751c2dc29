"""Paths of ``conf/`` and ``experiments/``, and the lookup of a recipe by name.

The build puts ``conf/`` and the YAML files of ``experiments/`` into the package. In a checkout both folders
are at the top of the repository.
"""

from pathlib import Path

from hemnet.errors import HemnetError


def shipped(folder: str) -> Path:
    """Return the folder ``conf`` or ``experiments``: that in the package, or that of the checkout."""
    package = Path(__file__).parents[1]
    installed, checkout = package / folder, package.parents[1] / folder
    return installed if installed.is_dir() else checkout


CONF = shipped("conf")
EXPERIMENTS = shipped("experiments")


def recipes(kind: str = ".") -> dict[str, Path]:
    """Return the files of one kind by name: those shipped, and those in ./experiments of the working folder.

    Of two files with one name, that of the working folder is returned.

    Args:
        kind: a folder in ``experiments/``: ``sweeps``, ``evaluations`` or ``searches``; "." is the recipes'.
    """
    folders = (EXPERIMENTS / kind, Path.cwd() / "experiments" / kind)
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
