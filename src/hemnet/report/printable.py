"""Text of runs that every file of a report can hold."""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(value: Any) -> Any:
    r"""Return a value with its texts as UTF-8 and XML 1.0 can hold them.

    A lone surrogate, as JSON may have, is \ud800; a control character other than a tab or line break is \x00.
    The texts are those of a dataclass, list, tuple or mapping, at any depth. Paths stay as they are, since
    they name files.
    """
    if isinstance(value, str):
        return NOT_XML.sub(_escaped, value)
    if isinstance(value, Mapping):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(printable, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: printable(getattr(value, each.name)) for each in fields(value)})
    return value


def _escaped(letter: re.Match[str]) -> str:
    code = ord(letter[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
