"""One form of what a configuration may write in several ways: the name of a class, and a value.

Runs are averaged if their settings are equal, so two ways to write one thing must have one form, and two
things must never share one.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

TARGET = "_target_"
LITERAL = re.compile(r"True|False|None|[+-]?(inf|nan|\d[\d_]*\.?\d*(e[+-]?\d+)?)|[\[{'\"].*", re.DOTALL)
"""A text that reads like another kind of value."""
SHORT = ("albumentations", "hemnet", "lightning_fabric", "pytorch_lightning", "torch")
"""Packages of which a configuration may name classes. In each, a name of a class is of one class."""


def class_name(target: Any) -> str:
    """Return package and name of the class that a ``_target_`` names, the same for each path to it.

    Such packages export a class at several paths: ``hemnet.nets.EMHead`` and ``hemnet.nets.heads.EMHead``
    are ``hemnet.EMHead``. The path of a class of any other package, such as a user's, is returned whole.
    """
    package, _, rest = str(target).partition(".")
    return f"{package}.{rest.rpartition('.')[2]}" if package in SHORT and rest else str(target)


def told(target: str) -> str:
    """Return a class as it is told: its name alone, or its whole path if it is of no package of `SHORT`."""
    name = class_name(target)
    return name if name.partition(".")[0] not in SHORT else name.rpartition(".")[2]


def text(value: Any, key: str = "") -> str:
    """Return a value of a configuration as text; ``key`` is its dotted key.

    Whole numbers are alike as integers and as floats; floats have twelve digits, more than training has. A
    text that would read like another kind of value, and each text inside a list, is quoted.
    """
    if isinstance(value, str) and key.rpartition(".")[2] != TARGET:
        return repr(value) if LITERAL.fullmatch(value) else value
    return _inner(value, key)


def _inner(value: Any, key: str = "") -> str:
    if key.rpartition(".")[2] == TARGET:
        return class_name(value)
    if isinstance(value, float):
        return f"{value:.12g}" if not value.is_integer() or abs(value) >= 1e12 else str(int(value))
    if isinstance(value, Mapping):
        kept = sorted((str(name), each) for name, each in value.items() if each is not None)
        inner = (f"{name}: {_inner(each, name)}" for name, each in kept)
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inner, value)) + "]"
    return repr(value) if isinstance(value, str) else str(value)


def digits(content: str) -> str:
    """Return six hexadecimal digits that stand for a content, such as the ``repr`` of settings."""
    return hashlib.sha256(content.encode("utf-8", "backslashreplace")).hexdigest()[:6]
