r"""Arguments ``key=value`` in Hydra's grammar: told from other words, quoted where they must be, and read.

Hydra reads ``( ) [ ] { } = , : ' " \`` as parts of its grammar, and refuses ``~ # ; & !`` and letters beyond
English ones outside of quotes.
"""

import argparse
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from hemnet.config.explain import ConfigError
from hemnet.config.paths import CONF, recipes
from hemnet.runs.redaction import is_secret, redact_argument
from hemnet.storage.places import absolute

# A key and an equals sign. Without slashes, so that a path is not taken for a key.
ASSIGNMENT = re.compile(r"\+{0,2}[A-Za-z_][\w.]*=")
PATH = re.compile(r"~|/|\.\.?/")
"""How a value begins that can only be a path."""
# Hydra's options that are followed by a value, and of these the ones whose value is a folder.
HYDRA_OPTIONS = {"--config-name", "-cn", "--package", "-p", "--cfg", "-c", "--info", "-i"}
HYDRA_FOLDERS = {"--config-dir", "-cd", "--config-path", "-cp"}


def quoted(value: str | Path) -> str:
    """Return a value as a quoted string of Hydra's grammar, in which every character stands for itself."""
    # A backslash is special before a quote only, and at the end, where the quote follows.
    text = re.sub(r"(\\*)(\"|$)", lambda found: found[1] * 2 + ('\\"' if found[2] else ""), str(value))
    return f'"{text}"'


def readable(assignments: Iterable[str]) -> list[str]:
    """Return ``key=value`` arguments so that Hydra can read each; paths need no quotes of Hydra's.

    Raises:
        ConfigError: an argument has no ``=``, or its value needs quotes, which the message shows.
    """
    return [_readable(each) for each in assignments]


def parse_override(assignment: str) -> Override:
    """Return one argument as Hydra reads it; see `readable`."""
    return OverridesParser.create().parse_override(_readable(assignment))


def _readable(word: str) -> str:
    key, equals, value = word.partition("=")
    if not _is_text(word):
        raise ConfigError(f"{word!r}: not all of its bytes are text in UTF-8: write it in UTF-8")
    reason = _refusal(word)
    if reason is None:
        _require_option(word)
        return word
    if not equals:
        raise ConfigError(f"{word!r} is no assignment: write key=value, such as data.root=FOLDER")
    if PATH.match(value):
        pieces = value.split(",")
        several = all(PATH.match(piece) for piece in pieces)  # an axis of a sweep
        candidate = f"{key}={','.join(map(quoted, pieces if several else [value]))}"
        if _refusal(candidate) is None:
            return candidate
    shown = redact_argument(word)
    if _refusal(f"{key}=0") is not None:
        raise ConfigError(f"{shown}: {key!r} is no key; a key has letters, digits and _ . / + ~ @ :")
    reason = "it may be secret" if is_secret(key) else reason
    if value[:1] in ("[", "{"):
        remedy = f"quote the item that has other signs than letters and digits: {key}='[\"...\", ...]'"
    else:
        remedy = f"quote the value, for Hydra and for the shell: {key}={_for_shell(key, value)}"
    raise ConfigError(f"{shown}: Hydra cannot read this value ({reason}); {remedy}")


def _require_option(word: str) -> None:
    """Refuse a group of the configuration that is chosen by something else than a name, such as null."""
    parsed = OverridesParser.create().parse_override(word)
    group = parsed.key_or_group
    if parsed.is_delete() or parsed.is_sweep_override() or isinstance(parsed.value(), str | list):
        return
    own = {"experiment": ".", "sweep": "sweeps"}
    files = recipes(own[group]) if group in own else [path.stem for path in (CONF / group).glob("*.yaml")]
    if files:
        raise ConfigError(
            f"{word}: {group} is chosen by a name, one of {', '.join(sorted(files))}; null may be a part of "
            "it, as in logger.csv=null"
        )


def _is_text(word: str) -> bool:
    """Return whether Python could read all of an argument; a byte that it could not is a lone surrogate."""
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


def _for_shell(key: str, value: str) -> str:
    return shlex.quote(quoted("VALUE" if is_secret(key) else value.strip("'\"")))


def _refusal(word: str) -> str | None:
    """Return why Hydra cannot read an argument, in a few words; None if it can."""
    try:
        OverridesParser.create().parse_override(word)
    except HydraException as error:
        said = str(error).splitlines()[0]
        found = re.search(r"(?:at:|input) '(.+?)'(?: expecting|$)", said)
        return f"it stops at {found[1]}" if found and found[1] != "<EOF>" else "it is not complete"
    return None


def for_hydra(words: Sequence[str]) -> list[str]:
    """Return the words of ``hemnet train`` so that Hydra can read them, its folders absolute.

    Raises:
        ConfigError: see `readable`.
    """
    made: list[str] = []
    before = ""
    for word in words:
        option, equals, value = word.partition("=")
        if before in HYDRA_FOLDERS:
            made.append(_folder(word))
        elif before in HYDRA_OPTIONS:
            made.append(word)
        elif option in HYDRA_FOLDERS and equals:
            made.append(f"{option}={_folder(value)}")
        else:
            made += [word] if word.startswith("-") else readable([word])
        before = word
    return made


def _folder(text: str) -> str:
    return text if "://" in text else str(absolute(text))


def split(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of a command for its parser, and the ``key=value`` assignments, which may be anywhere.

    No assignment is what follows an option with one value, what follows ``--``, and the name of a file.
    """
    valued = {name for action in parser._actions if action.nargs is None for name in action.option_strings}
    own: list[str] = []
    assignments: list[str] = []
    for number, word in enumerate(words):
        if word == "--":
            return own + list(words[number:]), assignments
        follows = number > 0 and words[number - 1] in valued
        taken = ASSIGNMENT.match(word) and not follows and not os.path.lexists(word)
        (assignments if taken else own).append(word)
    return own, assignments
