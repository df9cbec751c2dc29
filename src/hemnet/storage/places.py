"""The one reading of a path that a user gives, in an argument, a configuration or an environment variable."""

import argparse
import os
from pathlib import Path

from hemnet.errors import HemnetError


class PathError(HemnetError, argparse.ArgumentTypeError):
    """What a user wrote is no path; argparse adds the name of the argument."""


def absolute(text: str | Path, start: str | Path | None = None) -> Path:
    """Return a path as an absolute one, with ``~`` and ``~user`` replaced by the home folder.

    Symbolic links and ``..`` stay as they are. A folder that is itself called ``~`` is ``./~``.

    Args:
        text: what the user wrote.
        start: the folder that a relative path starts from; None is the working folder.

    Raises:
        PathError: the path is empty, or ``~user`` names nobody on this machine.
    """
    if not os.fspath(text):
        raise PathError("a path is empty; for the working folder, write .")
    whole = os.path.expanduser(text)
    if whole.startswith("~") and str(text).startswith("~"):
        name = whole.partition("/")[0]
        raise PathError(f"{text}: there is no user {name[1:]}; for a folder of this name, write ./{text}")
    return Path(start or Path.cwd()) / whole
