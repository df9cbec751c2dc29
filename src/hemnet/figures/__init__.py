"""Figures as PNG files: predictions, attention, confusion matrices, learning curves."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from hemnet.storage.files import replacing

ORIGIN = "hemnet"
"""The keyword of a PNG file's text that says what it was made from."""

# Names of images and classes are plain text; one with two dollar signs would be parsed as a formula.
styled = mpl.rc_context(
    {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}
)
"""Decorates a function that draws, so that the settings of a program's own figures stay as they are."""


def save(figure: Figure, path: Path, origin: str = "{}") -> None:
    """Write a figure as a PNG file, whole or not at all.

    Args:
        figure: the figure.
        path: the file.
        origin: an object in JSON, what the figure was made from, see `hemnet.figures.predictions.record_of`.
    """
    with replacing(path) as part:
        figure.savefig(part, format="png", metadata={ORIGIN: origin})


def caption(name: str, most: int) -> str:
    """Return the name of an image as it is drawn: its last ``most`` characters, of any file name's bytes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if len(text) <= most else f"…{text[1 - most :]}"
