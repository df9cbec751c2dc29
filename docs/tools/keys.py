"""The reference of configuration keys: a section for each option, from conf/ and its constructors."""

import inspect
import re
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from griffe import Docstring, Parser

Row = tuple[str, str, Any, str]
"""A key, its type, its value and its meaning."""
COMMON = {"_target_", "_partial_", "_recursive_", "_convert_"}


def page(conf: Path) -> str:
    """Return the sections in Markdown."""
    sections = [_top(conf / "train.yaml")]
    for path in sorted(conf.glob("*/**/*.yaml")):
        place = path.relative_to(conf)
        if place.parts[0] != "hydra":
            sections.append(_section(path, place.parent.as_posix(), path.stem))
    # What a key means is said once, where it belongs; other sections set it too.
    known = {key: meaning for _, rows in sections for key, _, _, meaning in rows if meaning}
    filled = (
        (text, [(*row[:3], row[3] or known.get(row[0], "")) for row in rows]) for text, rows in sections
    )
    return "\n\n".join(part for text, rows in filled for part in (text, _table(rows)) if part)


def _top(path: Path) -> tuple[str, list[Row]]:
    text = path.read_text("utf-8")
    node = {k: v for k, v in yaml.safe_load(text).items() if k not in ("defaults", "hydra")}
    return "## The whole configuration", _rows(node, "", _comments(text))


def _section(path: Path, group: str, name: str) -> tuple[str, list[Row]]:
    text = path.read_text("utf-8").replace("# @package _global_\n", "")
    node, bases = _node(path)
    header = re.match(r"((?:#[^\n]*\n)*)", text)
    parts = [f"## {group}={name}", " ".join(header[1].replace("#", "").split()) if header else ""]
    if bases:
        parts.append(f"As {', '.join(f'`{group}={base}`' for base in bases)}, but for:")
    prefix = "" if group == "debug" else group.replace("/", ".")
    rows: list[Row] = []
    if group in ("callbacks", "logger", "task/loss"):  # several parts by name
        for part, inner in node.items():
            rows += _rows(inner, f"{prefix}.{part}", _comments(text)) if isinstance(inner, dict) else []
    else:
        rows = _rows(_with_target(node, path.parent, bases), prefix, _comments(text), own=not bases)
    return "\n\n".join(filter(None, parts)), rows


def _node(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of a file, and the options of its group that it begins with."""
    node = yaml.safe_load(path.read_text("utf-8")) or {}
    bases = [each for each in node.pop("defaults", []) if isinstance(each, str) and each != "_self_"]
    return node, bases


def _with_target(node: dict[str, Any], folder: Path, bases: list[str]) -> dict[str, Any]:
    """Return a node with the constructor that it has, or has from its bases."""
    for base in bases:
        if "_target_" not in node:
            inherited, further = _node(folder / f"{base}.yaml")
            inherited = _with_target(inherited, folder, further)
            node |= {key: value for key, value in inherited.items() if key == "_target_"}
    return node


def _rows(node: dict[str, Any], prefix: str, comments: dict[str, str], *, own: bool = True) -> list[Row]:
    """Return the keys of a node, and if they are not those of a base, the arguments that it leaves out."""
    target = node.get("_target_", "")
    types, meanings, defaults = _about(target)
    elsewhere = f"see `{target}`" if target and not target.startswith("hemnet.") else ""
    dot = f"{prefix}." if prefix else ""
    rows: list[Row] = []
    given = {key: value for key, value in node.items() if key not in COMMON}
    for key, value in given.items():
        if isinstance(value, dict) and value:
            rows += _rows(value, f"{dot}{key}", comments)
        else:
            meaning = meanings.get(key) or comments.get(key) or comments.get(f"{dot}{key}") or elsewhere
            rows.append((f"{dot}{key}", types.get(key, ""), value, meaning))
    for key, default in defaults.items():
        if own and key not in given:
            rows.append((f"+{dot}{key}", types.get(key, ""), default, meanings.get(key, "")))
    return rows


def _about(target: str | None) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
    """Return types, meanings and defaults of a constructor's arguments; of hemnet's classes alone."""
    if not target or not target.startswith("hemnet."):
        return {}, {}, {}
    from hydra.utils import get_object

    call = get_object(target)
    init = call.__init__ if inspect.isclass(call) else call
    try:
        hints = {name: _plain(hint) for name, hint in get_type_hints(init).items()}
    except (NameError, TypeError):
        hints = {}
    meanings: dict[str, str] = {}
    for base in reversed(inspect.getmro(call)) if inspect.isclass(call) else [call]:
        meanings |= _meanings(base.__doc__ or "") if base.__module__.startswith("hemnet.") else {}
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(call).parameters.items()
        if parameter.default is not inspect.Parameter.empty and name in meanings
    }
    return hints, meanings, defaults


def _meanings(docstring: str) -> dict[str, str]:
    """Return what a docstring says of each argument; those of a dataclass are its attributes."""
    return {
        argument.name: re.sub(r":\w+:(`)", r"\1", " ".join(argument.description.split()))
        for section in Docstring(inspect.cleandoc(docstring)).parse(Parser.google)
        if section.kind.value in ("parameters", "attributes") for argument in section.value
    }  # fmt: skip


def _plain(hint: Any) -> str:
    text = hint.__name__ if inspect.isclass(hint) and not hasattr(hint, "__args__") else str(hint)
    return re.sub(r"\b(?:typing|collections\.abc|hemnet(?:\.\w+)*|torch|pathlib)\.", "", text)


def _comments(text: str) -> dict[str, str]:
    """Return the comment above each key, by the key's path."""
    found: dict[str, str] = {}
    above: list[str] = []
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        if match := re.match(r"(\s*)#\s?(.*)", line):
            above.append(match[2])
        elif match := re.match(r"(\s*)([\w/]+):", line):
            path = [*(item for item in path if item[0] < len(match[1])), (len(match[1]), match[2])]
            said = " ".join(above)
            found[".".join(key for _, key in path)] = said
            found.setdefault(match[2], said)
            above = []
        else:
            above = []
    return found


def _table(rows: list[Row]) -> str:
    if not rows:
        return ""
    lines = ["| key | value | meaning |", "|---|---|---|"]
    for key, type_, value, meaning in rows:
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        name = _code(key) + (f"<br>{_code(type_)}" if type_ else "")
        lines.append(f"| {name} | {_code(shown) if shown else ''} | {meaning.replace('|', '&#124;')} |")
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"`{text}`"
