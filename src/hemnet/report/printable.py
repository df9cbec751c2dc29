"""Text of runs that every file of a report can hold."""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

NOT_XML = r"\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff"
TURNING = r"\u202a-\u202e\u2066-\u2069"
"""What turns the direction of the text after it, which may belong to the report."""
MARK = r"\ufeff"
"""The byte order mark, which matplotlib cannot draw."""
HIDDEN = re.compile(f"[{NOT_XML}{TURNING}{MARK}]")


def printable(value: Any) -> Any:
    r"""Return a value with its texts as UTF-8 and XML 1.0 can hold them.

    A lone surrogate, as JSON may have, is \ud800; a control character other than a tab or line break is \x00;
    so are a byte order mark, and letters that turn the direction of what follows. The texts are those of a
    dataclass, list, tuple or mapping, at any depth. Paths stay as they are, since they name files.
    """
    if isinstance(value, str):
        return HIDDEN.sub(_escaped, value)
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
