"""Text of runs that every file of a report can hold."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any


def printable(value: Any) -> Any:
    r"""Return a value with its texts as UTF-8 can hold them: a lone surrogate, as JSON may have, is \ud800.

    The texts are those of a dataclass, list, tuple or mapping, at any depth. Paths stay as they are, since
    they name files.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(printable, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: printable(getattr(value, each.name)) for each in fields(value)})
    return value
