"""Runs notebooks without Jupyter: the cells of a file in one namespace, with what they print and draw."""

import base64
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Cell(NamedTuple):
    """A cell: its text, whether it is code, and of code what it printed and its figures, PNG files."""

    text: str
    code: bool
    printed: str = ""
    figures: tuple[bytes, ...] = ()


def run(path: Path) -> Iterator[Cell]:
    """Run a notebook in the present folder, and yield its cells with their results.

    Raises:
        Exception: that of a cell.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.close("all")
    names = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            yield Cell(text, code=False)
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(text, f"{path.name}, cell {number}", "exec"), names)
        figures = []
        for each in plt.get_fignums():
            file = io.BytesIO()
            plt.figure(each).savefig(file, format="png", dpi=110)
            figures.append(file.getvalue())
        plt.close("all")
        yield Cell(text, True, printed.getvalue(), tuple(figures))


def markdown(path: Path) -> str:
    """Return a notebook that was run as a page."""
    parts = []
    for cell in run(path):
        if not cell.code:
            parts.append(cell.text)
            continue
        parts.append(f"```python\n{cell.text}\n```")
        if cell.printed.strip():
            parts.append(f"```text\n{cell.printed.rstrip()}\n```")
        for figure in cell.figures:
            parts.append(f'<img src="data:image/png;base64,{base64.b64encode(figure).decode()}" alt="">')
    return "\n\n".join(parts)


if __name__ == "__main__":
    for given in sys.argv[1:]:
        print(markdown(Path(given)))
