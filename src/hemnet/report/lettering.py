"""Text in charts: how wide it is, where its lines end, and which labels of an axis stand below others."""

import math
import textwrap
import unicodedata
from collections.abc import Sequence
from itertools import count

ACROSS = 50
"""How many letters of tick labels the x axis of a chart is wide."""
FILLER = "\ue000"
"""Stands beside a wide letter while letters are counted; a letter for private use, which no text has."""


def letters_in(text: str) -> int:
    """Return how many letters a text is wide; one of Chinese or Japanese is as wide as two."""
    return len(_filled(text))


def lines_in(text: str) -> int:
    """Return how many lines a text has."""
    return text.count("\n") + 1


def wrapped(text: str, width: int) -> str:
    """Return a text in lines of so many `letters_in` at most."""
    return textwrap.fill(_filled(text), width).replace(FILLER, "")


def _filled(text: str) -> str:
    return "".join(c + FILLER if unicodedata.east_asian_width(c) in "WF" else c for c in text)


def staggered(places: Sequence[float], labels: Sequence[str], across: float = ACROSS) -> list[str]:
    """Return the labels of an x axis, lowered by as many lines as keep each from those at its left.

    Args:
        places: where the labels are, rising.
        labels: of one line or several.
        across: how many letters there are from the first place to the last.
    """
    letter = (places[-1] - places[0]) / across if across else 0.0
    ends: list[float] = []  # of the last label in each line
    found = []
    for place, text in zip(places, labels, strict=True):
        half = letter * max(map(letters_in, text.split("\n"))) / 2
        own = lines_in(text)
        taken = {i for i, end in enumerate(ends) if end + letter > place - half}
        line = next(i for i in count() if taken.isdisjoint(range(i, i + own)))
        ends += [-math.inf] * (line + own - len(ends))
        ends[line : line + own] = [place + half] * own
        found.append("\n" * line + text)
    return found
