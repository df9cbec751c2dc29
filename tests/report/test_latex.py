"""Tables as LaTeX, set by a real pdflatex and read back from its PDF."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from _helpers.fake_runs import write_study
from _helpers.waiting import CEILING
from hypothesis import given
from hypothesis import strategies as st

from hemnet.report.contents import Column, Links, Table
from hemnet.report.estimates import Estimate
from hemnet.report.latex import escape_tex
from hemnet.report.tex_table import PACKAGES
from hemnet.report.write import write_report

needs_latex = pytest.mark.skipif(
    shutil.which("pdflatex") is None or shutil.which("pdftotext") is None,
    reason="no LaTeX: apt-get install texlive-latex-base texlive-latex-recommended poppler-utils",
)


def compiled(folder: Path, tables: str) -> str:
    """Return the text of a PDF with tables; fail if LaTeX complains, also of what leaves the page."""
    (folder / "all.tex").write_text(
        f"\\documentclass[a4paper]{{article}}\n{PACKAGES}\n\\begin{{document}}\n{tables}\n\\end{{document}}\n",
        encoding="ascii",
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, timeout=CEILING, stdin=subprocess.DEVNULL, check=False
    )
    log = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, log[-3000:]
    assert "Missing character" not in log
    assert not re.search(r"^!", log, re.MULTILINE)
    assert not re.search(r"Overfull|too large", log), re.findall(r".*(?:Overfull|too large).*", log)
    text = subprocess.run(
        ["pdftotext", "-layout", "all.pdf", "-"], cwd=folder, capture_output=True, check=True
    )
    return text.stdout.decode()


@needs_latex
def test_every_table_of_a_report_compiles(tmp_path: Path) -> None:
    write_study(tmp_path / "runs", depths=(2,), scales=(0.5, 0.9), seeds=2, heads=("fcn",))
    write_report([tmp_path / "runs"], tmp_path / "report")
    files = sorted((tmp_path / "report/tables").glob("*.tex"))
    assert len(files) > 10
    text = compiled(tmp_path, "".join(f"\\input{{report/tables/{file.name}}}\\clearpage\n" for file in files))
    assert "±" in text


ASKED = "a_b 5 % ± η σ² ² – −0.5 {x} $y$ #1 A&B ~ ^ \\ < > | × → ∂ ≤ ≥ † μ é Å ł ß ½ x₁ … “q” 20°"


@needs_latex
def test_special_letters_are_shown_as_they_are(tmp_path: Path) -> None:
    table = Table(
        "special", f"Of {ASKED}", [Column(ASKED), Column("m_2 ²")], [[ASKED, Estimate(-0.25, 0.125, 3)]]
    )
    text = compiled(tmp_path, table.tex())
    for word in (
        "5 %",
        "±",
        "η",
        "{x}",
        "$y$",
        "#1",
        "A&B",
        "×",
        "→",
        "∂",
        "≤",
        "≥",
        "−0.250 ± 0.125",
        "1/2",
        "“q”",
    ):
        assert word in text, (word, text)
    # What TeX draws with lines and dots, which are no letters of the PDF.
    for drawn in (
        r"a\_b",
        r"\dag{}",
        r"\'{e}",
        r"\r{A}",
        r"\l{}",
        r"\ss{}",
        r"\textsuperscript{2}",
        r"textsubscript{1}",
    ):
        assert drawn in table.tex()


VERDICT, PATH = "inside the noise", "/home/somebody/runs/sweeps/synthetic_hem/highway_scale_of_a_half/seed0"
HASH = "0123456789abcdef" * 8
MEAN = Estimate(-0.25, 0.125, 3)


@needs_latex
@pytest.mark.parametrize(
    "row",
    [
        ["em", *[MEAN] * 3, 0.25, VERDICT],
        ["em", *[MEAN] * 10],
        [PATH, "failed", f"RuntimeError: {PATH}: {HASH} AND THEN MORE WORDS THAN A LINE HAS " + 30 * "道路"],
        *([VERDICT.upper() if n % 2 else VERDICT] * n for n in (1, 3, 4, 5, 8)),
    ],
    ids=lambda row: str(len(row)),
)
@pytest.mark.parametrize("rows", [1, 41, 150])
def test_wide_and_tall_tables_stay_on_the_page(row: list, rows: int, tmp_path: Path) -> None:
    heads = [Column(f"seeds in common, {i}") for i in range(len(row))]
    text = compiled(tmp_path, Table("wide", "mIoU of many settings.", heads, [row] * rows).tex())
    assert "common" in text
    assert text.lower().count("noise") + text.count("−0.250") + text.count("failed") >= rows


@needs_latex
@pytest.mark.parametrize("columns", [12, 25, 60])
@pytest.mark.parametrize("rows", [2, 60])
def test_a_table_of_more_columns_than_fit_is_several_that_repeat_the_first(
    columns: int, rows: int, tmp_path: Path
) -> None:
    heads = [Column("class"), *(Column(f"setting {i}") for i in range(columns))]
    table = Table("many", "IoU.", heads, [[f"road{i}", *[MEAN] * columns] for i in range(rows)])
    text = compiled(tmp_path, table.tex())
    assert text.count("−0.250") == columns * rows
    parts = table.tex().count(r"\label{")
    assert parts > 1
    assert text.count("road1\n") + text.count("road1 ") >= 1
    assert [f"tab:many{'' if i == 0 else f'_{i + 1}'}}}" in table.tex() for i in range(parts)] == [
        True
    ] * parts
    assert f"Part {parts} of {parts}." in table.tex()


@pytest.mark.parametrize(
    "text",
    ["rate=0.00143132933558", "a.very.long.key.of.a.setting=3.21564730614e-05", "[0.25,0.125,0.0625,0.5]"],
)
def test_no_line_ends_within_a_number(text: str) -> None:
    tex = Table("a", "", [Column("setting"), Column("mIoU")], [[text, 0.5]]).tex()
    pieces = tex.partition("midrule")[2].partition(" &")[0].split(r"\allowbreak{}")
    assert len(pieces) > 1
    numbers = re.findall(r"\d+\.\d+", text)
    assert re.findall(r"\d+\.\d+", " ".join(pieces)) == numbers


@needs_latex
@pytest.mark.parametrize("word", ["camvid_" * 20, "x" * 300, "/data/of/" * 20])
def test_a_caption_with_a_long_word_stays_on_the_page(word: str, tmp_path: Path) -> None:
    compiled(tmp_path, Table("a", f"Scores on {word}.", [Column("mIoU")], [[0.5]]).tex())


def test_columns_of_links_are_left_out() -> None:
    links = Links([("0", "../run"), ("curves", "../run/curves.png")])
    tex = Table("a", "", [Column("seeds"), Column("runs, by seed")], [[3, links]]).tex()
    assert "seeds \\\\\n" in tex
    assert "curves" not in tex


def test_a_caption_says_what_the_marks_and_numbers_of_cells_mean() -> None:
    def legend(*ns: int, heading: str = "mIoU", bounds: tuple[float, float] = (0, 1)) -> str:
        rows = [[Estimate(0.5, None if n == 1 else 0.125, n, bounds), n] for n in ns]
        table = Table("a", "Scores.", [Column("mIoU"), Column(heading)], rows)
        assert ("(n=3)" in table.tex()) == ("unless" in table.legend)
        return table.legend.removeprefix("Scores.").strip()

    spread = "± Half the width of the 95% t-interval over seeds"
    assert legend(1, 1) == "n = 1 seed."
    assert legend(8, 8) == f"{spread}. n = 8 seeds."
    assert legend(8, 3, 8) == f"{spread}. n = 8 seeds unless a cell says otherwise."
    assert legend(8, 1, 1, 3, 8) == f"{spread}. n = 8 seeds unless a cell says otherwise."
    assert legend(8, 3, heading="seeds") == f"{spread}."
    assert legend(8, 8, bounds=(0.4, 1)).startswith("† A 95% interval that is cut")


AWKWARD = [
    "[void]", "*", "\x1f[a]", " *b", "--sweep", "---", "``a''", "?`", "!`",
    "日本", "a\nb\tc", "\x1b[31m", "\u200b", "e\u0301", "\u0301", "$", "\\", "%",
    "{", "}", "^^41", "\\end{document}", "#", "''", ",,", "🙂", "\ufeffa", "-5", "°²",
    "--5", "1e-5", "σ²", "η⁻", "√C", "$²", "µ", "ﬁ", "ấ",
]  # fmt: skip


@needs_latex
def test_awkward_names_compile_wherever_they_stand(tmp_path: Path) -> None:
    rows = [[name, name] for name in AWKWARD]
    table = Table("awkward", " ".join(AWKWARD), [Column(name) for name in AWKWARD[:2]], rows)
    text = compiled(tmp_path, table.tex())
    assert "--sweep" in text
    assert "[void]" in text
    assert "U+65E5U+672C" in text
    assert "−5" in text
    assert "1e−5" in text
    assert "\\end{document}" in text


@given(st.text())
def test_the_latex_of_any_text_is_printable_ascii_with_balanced_braces(text: str) -> None:
    tex = escape_tex(text)
    assert tex.isascii()
    assert tex.isprintable()
    bare = re.sub(r"\\[^a-zA-Z]", "", tex)
    depth = 0
    for letter in bare:
        depth += (letter == "{") - (letter == "}")
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    assert not set("%&#") & set(bare)


def test_a_hyphen_before_a_number_is_a_minus_and_others_stay() -> None:
    assert escape_tex("-0.5 h=-1 2026-01-02 a-1 1e-5 -x") == "$-$0.5 h=$-$1 2026-01-02 a-1 1e$-$5 -x"
    assert escape_tex("σ² ² μ₁ $² 10⁻⁵ η⁻") == (
        r"$\sigma^{2}$ \textsuperscript{2} $\mu_{1}$ \$\textsuperscript{2} "
        r"10\textsuperscript{$-$}\textsuperscript{5} $\eta$\textsuperscript{$-$}"
    )
