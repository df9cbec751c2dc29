"""Charts drawn by one process and by several."""

import os
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hemnet.errors import HemnetError
from hemnet.report.contents import Chart
from hemnet.report.definitions import AGAINST_T
from hemnet.report.drawing import write_charts
from hemnet.report.plots import STYLE


def chart(number: int, title: str = "") -> Chart:
    def draw() -> Figure:
        figure = Figure(figsize=(3, 2), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, number], label=f"η = {number}")
        axis.set(ylabel="a label that needs room", title=title)
        figure.legend(loc="outside lower center")
        return figure

    return Chart(f"n{number}", AGAINST_T, "", draw)


def test_several_processes_write_what_one_does(tmp_path: Path) -> None:
    charts = [chart(i) for i in range(5)]
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        found = write_charts(charts, tmp_path / str(processes), processes)
        assert list(found) == [one.name for one in charts]
    files = sorted((tmp_path / "1").iterdir())
    assert len(files) == 10
    for file in files:
        assert (tmp_path / "2" / file.name).read_bytes() == file.read_bytes()


def test_a_chart_is_laid_out_before_it_is_drawn(tmp_path: Path) -> None:
    figure = chart(3).draw()
    write_charts([Chart("n", AGAINST_T, "", lambda: figure)], tmp_path, 1)
    extents = figure.axes[0].get_tightbbox().extents / (figure.dpi * figure.get_size_inches()[[0, 1, 0, 1]])
    assert 0 <= extents[0] < 0.05
    assert 0.95 < extents[2] <= 1.001
    assert extents[1] > 0.1, "the legend is below the axes, not on them"


def test_what_happens_in_a_process_is_told(tmp_path: Path) -> None:
    def fail() -> Figure:
        raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        write_charts([chart(1), Chart("bad", AGAINST_T, "", fail)], tmp_path, 2)
    with pytest.raises(HemnetError, match="a process that draws charts died"):
        write_charts([chart(1), Chart("dead", AGAINST_T, "", lambda: os._exit(9))], tmp_path, 2)


@pytest.mark.parametrize("processes", [1, 2])
def test_letters_that_no_font_has_are_told_once(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(STYLE, "font.family", ["sans-serif"])
    write_charts([chart(1, "道路"), chart(2, "天路"), chart(3, "road")], tmp_path, processes)
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith("boxes in charts stand for 天 路 道: install a font")


def test_fonts_of_charts_are_installed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_charts([chart(1, "road")], tmp_path, 1)
    assert "findfont" not in caplog.text
