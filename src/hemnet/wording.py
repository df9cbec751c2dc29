"""Numbers and lists as a message says them."""

from collections import Counter
from collections.abc import Iterable, Sequence


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return "1 image", "0 images", "2000 images": a number with its noun, whose plural may be given."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def examples(items: Sequence[object], most: int = 3) -> str:
    """Return the first ``most`` items, with "..." after them if there are more."""
    return ", ".join([*map(str, items[:most]), *(["..."] if len(items) > most else [])])


def tally(values: Iterable[str]) -> str:
    """Return each of the values with how often it occurs, most first: "a (3); b (1)"."""
    return "; ".join(f"{value} ({count})" for value, count in Counter(values).most_common())


def shortened(items: Sequence[object], most: int = 5) -> str:
    """Return the first ``most`` items, and how many others there are: "a, b and 3 more"."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def one_line(error: BaseException, most: int = 300) -> str:
    """Return the message of an error on one line, cut after ``most`` characters; its type if it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__
