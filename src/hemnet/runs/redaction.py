"""Redaction: removes secrets from everything that hemnet prints and writes.

The secrets are the values of environment variables and configuration keys with a name such as ``api_key``,
the value of any environment variable that the configuration refers to, except ``HEMNET_*``, and the user and
password of a URL. A value of fewer than six characters is hidden only under its own key, since such a short
string would also occur elsewhere by chance.
"""

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast
from urllib.parse import quote, unquote

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

# Names of secrets; "tokens" and "tokenizer" are none.
NAMES = r"(?:api|access|private|auth|signing)_?key|secret|token(?![a-z])|passw(?:or)?d|passphrase|credential"
SECRET_NAME = re.compile(NAMES, re.IGNORECASE)
# The following patterns match in time linear in the length of the text: no two neighbouring parts of a
# pattern can match the same character, and names have a maximum length, so that nothing is tried twice.
# User and password of a URL, and a URL's parameters with the name of a secret.
URL_USER = re.compile(r"(?<=://)([^/\s:'\"]*)(?::([^/\s'\"]*))?(?=@)")
URL_PARAMETER = re.compile(
    rf"([?&][\w-]{{0,64}}(?:{NAMES}|signature)[\w-]{{0,64}}=)[^&\s'\"]+", re.IGNORECASE
)
# An entry of a dictionary on the command line, as in ``{password:VALUE}``.
ENTRY = re.compile(rf"""((?:{NAMES})[\w-]{{0,64}}['"]?\s*:\s*['"]?)[^\s,'"{{}}\[\]]+""", re.IGNORECASE)
REFERENCE = re.compile(r"\$\{oc\.env:[^{}]*\}")
REDACTED = "<redacted>"
SHORTEST = 6


class _Known:
    """The secrets that this process has seen, and the substitute for each."""

    def __init__(self) -> None:
        self.substitutes: dict[str, str] = {}
        self.pattern = re.compile(r"(?!)")  # matches nothing

    def add(self, found: Iterable[tuple[str, str]]) -> None:
        before = len(self.substitutes)
        for value, substitute in found:
            # The spellings in Python strings, in JSON and in URLs, and each line of a value of several lines.
            forms = {value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(value, safe=""), unquote(value)}
            for form in forms.union(*(form.splitlines() for form in forms)):
                if len(form) >= SHORTEST:
                    self.substitutes.setdefault(form, substitute)
        if len(self.substitutes) > before:
            # The longest first, since one may be part of another.
            ordered = sorted(self.substitutes, key=len, reverse=True)
            self.pattern = re.compile("|".join(map(re.escape, ordered)))


_known = _Known()


def learn(config: DictConfig | None = None) -> None:
    """Add the secrets of the environment, the command line and a configuration to those `redact` removes.

    A configuration that cannot be resolved raises no error here; `hemnet.config.check.check` reports it.
    """
    _known.add(_of_environment())
    for argument in sys.argv:
        name, _, value = argument.partition("=")
        if is_secret(name):
            _known.add([(value.strip("'\""), REDACTED)])
    if config is not None:
        content, variables = _content(config)
        _known.add((value, REDACTED) for value in _secrets(content))
        _known.add((os.environ.get(name, ""), f"${{oc.env:{name}}}") for name in variables)


def redact(text: str) -> str:
    """Return a text without the secrets that `learn` has seen, and without those in URLs."""
    text = _known.pattern.sub(lambda found: _known.substitutes[found[0]], text)
    return URL_PARAMETER.sub(rf"\1{REDACTED}", URL_USER.sub(REDACTED, text))


def redact_argument(argument: str) -> str:
    """Return a word of a command line without secrets; ``api_key=VALUE`` loses its value."""
    name, equals, _ = argument.partition("=")
    if equals and is_secret(name):
        return f"{name}={REDACTED}"
    return ENTRY.sub(rf"\1{REDACTED}", redact(argument))


def redacted(config: DictConfig) -> DictConfig:
    """Return a resolved copy of a configuration without its secrets.

    A value from an environment variable becomes the interpolation ``${oc.env:NAME}`` again, except a value
    from ``HEMNET_*``.
    """
    learn(config)
    return OmegaConf.create(without_secrets(_content(config)[0]))


def without_secrets(content: Any) -> Any:
    """Return a copy of nested dictionaries and lists without secrets.

    Besides what `redact` removes, this replaces a value of any length under a name such as ``api_key``, and
    the same string wherever it is a whole value.
    """
    return _clean(content, frozenset(_secrets(content)), hidden=False)


def _clean(node: Any, secrets: frozenset[str], hidden: bool) -> Any:
    if isinstance(node, dict):
        return {
            key: value if key == "_target_" else _clean(value, secrets, hidden or is_secret(str(key)))
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_clean(value, secrets, hidden) for value in node]
    if (hidden and _can_be_secret(node)) or (isinstance(node, str) and node in secrets):
        return node if REFERENCE.fullmatch(str(node)) else REDACTED
    return redact_argument(node) if isinstance(node, str) else node


def is_secret(name: str) -> bool:
    """Return whether a key or variable with this name holds a secret."""
    return bool(SECRET_NAME.search(name))


class RedactingFormatter(logging.Formatter):
    """A formatter for logging that removes secrets from messages and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return redact(super().format(record))


class _RedactingStream:
    """A text stream that removes secrets from each string before writing it to another stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self._stream.writelines(map(redact, lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def redacted_terminal() -> Iterator[None]:
    """Remove secrets from what Python prints to standard output and standard error within the block."""
    learn()
    out, error = (cast(TextIO, _RedactingStream(stream)) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        yield


def _of_environment() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if is_secret(name) or name.upper().endswith("_KEY"):
            yield value, REDACTED
        for _, password in URL_USER.findall(value):
            yield password, REDACTED


def _content(config: DictConfig) -> tuple[Any, set[str]]:
    """Return the resolved content of a configuration, and the environment variables that it refers to.

    References to these variables, except ``HEMNET_*``, stay interpolations. A configuration that cannot be
    resolved is returned unresolved.
    """
    variables: set[str] = set()

    def mask(key: str, *default: Any) -> Any:
        own = key.startswith("HEMNET_") and not is_secret(key)
        if own or key not in os.environ:  # a default comes from the configuration, not the environment
            return oc.env(key, *default)
        variables.add(key)
        return f"${{oc.env:{key}}}"

    OmegaConf.register_new_resolver("oc.env", mask, replace=True)
    try:
        return OmegaConf.to_container(config, resolve=True), variables
    except OmegaConfBaseException:
        return OmegaConf.to_container(config), variables
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _secrets(node: Any, hidden: bool = False) -> Iterator[str]:
    """Yield the values below every key with the name of a secret, and the passwords in URLs."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _secrets(value, hidden or is_secret(str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from _secrets(value, hidden)
    elif hidden and _can_be_secret(node):
        if not REFERENCE.search(str(node)):
            yield str(node)
    elif isinstance(node, str):
        yield from (password for _, password in URL_USER.findall(node))


def _can_be_secret(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, int) and value >= 10 ** (SHORTEST - 1)  # a password may consist of digits
