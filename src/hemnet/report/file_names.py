"""Names of a report's files, by what is in them: more runs never give a name to other contents."""

import re
from collections import Counter
from collections.abc import Sequence

from hemnet.runs.canonical import digits

PAGE, FOLDERS = "index.html", ("figures", "tables")
LONGEST = 100  # characters; file systems allow 255 bytes


def file_names(wanted: Sequence[tuple[str, object]]) -> list[str]:
    """Return the beginning of a file's name for each text and content, none equal to another in any case.

    It is the text, in the letters that every file system has, and where several texts give one, the `digits`
    of the contents too.
    """
    stems = [re.sub("[^0-9A-Za-z]", "_", text)[:LONGEST] for text, _ in wanted]
    shared = Counter(stem.lower() for stem in stems)
    return [
        f"{stem}_{digits(repr(content))}" if shared[stem.lower()] > 1 else stem
        for stem, (_, content) in zip(stems, wanted, strict=True)
    ]
