"""Paths in a stored configuration that were made from another key, as ``${data.root}/classes.yaml`` was.

A stored configuration is resolved: it has such a path whole, and no trace of how it was made. So a path that
is that of a folder, or inside it, counts as made from it, and follows if the folder is another.
"""

from typing import Any

ROOT = "data.root"
"""The key of the folder of a data set."""


def moved(node: Any, old: str | None, new: str) -> Any:
    """Return nested containers in which paths at or below the folder ``old`` are at or below ``new``."""
    if isinstance(node, dict):
        return {key: moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [moved(value, old, new) for value in node]
    folder = (old or "").rstrip("/")
    if isinstance(node, str) and folder and (node == folder or node.startswith(f"{folder}/")):
        return new + node.removeprefix(folder)
    return node


def without_root(config: Any) -> Any:
    """Return a configuration, as plain containers, whose paths in the data set start at ``${data.root}``.

    Two runs on the same data in different places then have the same values, but for ``data.root`` itself.
    """
    data = config.get("data") if isinstance(config, dict) else None
    if not isinstance(data, dict) or not isinstance(root := data.get("root"), str):
        return config
    return {**config, "data": {**moved(data, root, f"${{{ROOT}}}"), "root": root}}
