"""Figures as PNG files: predictions, attention, confusion matrices, learning curves."""

import matplotlib as mpl

# Names of images and classes are plain text; one with two dollar signs would be parsed as a formula.
styled = mpl.rc_context(
    {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}
)
"""Decorates a function that draws, so that the settings of a program's own figures stay as they are."""


def caption(name: str, most: int) -> str:
    """Return the name of an image as it is drawn: its last ``most`` characters, of any file name's bytes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if len(text) <= most else f"…{text[1 - most :]}"
