"""The user's own packages, of which a configuration may name classes.

A configuration may come from anyone, so it cannot say by itself which packages to import. A package is
allowed if it is installed and declares itself, by an entry point of the group `hemnet.packages`; if the
environment variable HEMNET_PACKAGES names it; or if the run that names it was made by this user. A seal shows
that: a keyed hash whose key is in the user's configuration folder alone.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hemnet.runs.identity import below
from hemnet.storage.files import read_json

VARIABLE = "HEMNET_PACKAGES"
"""The environment variable with the names of own packages, separated by commas."""
GROUP = "hemnet.packages"
"""The group of entry points by which installed packages declare themselves: `mine = "mine"`."""
RECORD = "own_packages"
"""The key of environment.json."""
SIZE = 32  # bytes of the user's key


def own_packages() -> tuple[str, ...]:
    """Return the names of the packages that are allowed in this process."""
    named = filter(None, (name.strip() for name in os.environ.get(VARIABLE, "").split(",")))
    return tuple(dict.fromkeys((*named, *_declared())))


@cache
def _declared() -> tuple[str, ...]:
    return tuple(point.value for point in entry_points(group=GROUP))


def used_in(config: Any) -> list[str]:
    """Return the own packages of which a configuration, as plain containers, names classes, sorted."""
    targets = [target for target in _targets(config) if isinstance(target, str)]
    return sorted(name for name in own_packages() if any(below(target, (name,)) for target in targets))


def record(config: Any) -> dict[str, Any]:
    """Return what environment.json says of the own packages in a configuration; {} where there are none."""
    names = used_in(config)
    if not names:
        return {}
    key = _key(make=True)
    return {RECORD: {"names": names} | ({} if key is None else {"seal": _seal(names, key)})}


def recall(environment: Path) -> None:
    """Allow the packages of a run in this process and those that it starts, if this user made the run.

    Args:
        environment: the run's environment.json; without one, or with a wrong seal, nothing is allowed.
    """
    said = read_json(environment).get(RECORD)
    if not isinstance(said, dict) or not isinstance(names := said.get("names"), list):
        return
    wanted = [name for name in names if isinstance(name, str) and re.fullmatch(r"\w+(\.\w+)*", name)]
    key = _key(make=False)
    if key is None or wanted != names or not hmac.compare_digest(str(said.get("seal")), _seal(names, key)):
        return
    if missing := [name for name in names if name not in own_packages()]:
        os.environ[VARIABLE] = ",".join(filter(None, (os.environ.get(VARIABLE), *missing)))


def _targets(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _seal(names: list[str], key: bytes) -> str:
    return hmac.new(key, "\n".join(names).encode(), hashlib.sha256).hexdigest()


def _key(*, make: bool) -> bytes | None:
    """Return this user's key; None if there is none, and none can be made."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    path = Path(base) / "hemnet" / "key"
    try:
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError), open(path, "xb", opener=_for_the_user_alone) as file:
                file.write(secrets.token_bytes(SIZE))
        key = path.read_bytes()
    except OSError:
        return None
    return key if len(key) == SIZE else None


def _for_the_user_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
