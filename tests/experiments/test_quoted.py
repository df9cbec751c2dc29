"""Every number of FINDINGS*.md and of other pages is a committed file's; another would be noticed."""

from pathlib import Path

import numpy as np
import pytest
import quoted
import study
from quoted import FINDINGS, HERE, PAGES, problems, rewritten
from quoted_cells import NUMBER, agrees, numbers, table_of
from scipy import stats

from hemnet.storage.files import write_table

MEANS = """# Page

<!-- quoted
file: tables/{set}.csv
names: {set: {CamVid: camvid}}
where: {T: "{T}"}
cells:
  h = 0: {where: {h: 0}, take: [mIoU, high - mIoU]}
  verdict: {where: {h: 0}, take: [verdict]}
-->

| set | T | h = 0 | verdict |
|---|---|---|---|
| CamVid | 3 | 0.40 ± 0.02 | supported |
| CamVid | 8 | | |
"""


@pytest.fixture
def page(tmp_path: Path):
    """A function that writes a page, beside two tables, and returns what is wrong with it."""
    rows = [[3, 0.0, 0.4012, 0.4199, "supported"], [3, 0.5, 0.5, 0.6, "no"], [8, 0.5, 0.3, 0.4, "no"]]
    (tmp_path / "tables").mkdir()
    write_table(tmp_path / "tables" / "camvid.csv", ["T", "h", "mIoU", "high", "verdict"], rows)
    header = ["contrast", "pairs", "mean difference", "95% interval", "p"]
    primary = [
        ["h = 0.5 against h = 0", 8, "+0.0200", "+0.0137 to +0.0263", "<0.001"],
        ["`fcn`", 3, "+0.1", "", 0.2],
    ]
    write_table(tmp_path / "tables" / "primary.csv", header, primary)

    def found(text: str) -> list[str]:
        (tmp_path / "PAGE.md").write_text(text, "utf-8")
        return [*problems(tmp_path / "PAGE.md")]

    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_number_of_a_page_is_that_of_a_committed_file(page: Path) -> None:
    assert [*problems(page)] == []


@pytest.mark.parametrize("findings", FINDINGS, ids=lambda path: path.stem)
def test_no_number_of_the_findings_could_be_another(findings: Path, tmp_path: Path) -> None:
    """Each in turn is changed in its last digit but one, or, where it has one digit only, in that."""
    text = findings.read_text("utf-8")
    (tmp_path / "results").symlink_to(findings.parent / "results")
    changed = tmp_path / findings.name
    tried = 0
    for table in quoted.TABLE.finditer(text):
        if quoted.COMMENT.search(text[: table.start()])[1] == "not quoted":
            continue
        begin = text.index("\n", text.index("\n", table.start()) + 1) + 1  # after header and rule
        for number in [*NUMBER.finditer(text, begin, table.end())][::7]:
            digits = number["digits"]
            last = digits[:-1] + str((int(digits[-1]) + 5) % 10)
            changed.write_text(text[: number.start("digits")] + last + text[number.end("digits") :], "utf-8")
            assert next(problems(changed), None), text[number.start() - 30 : number.end()] + f" as {last}"
            tried += 1
    assert tried > 20


def test_a_page_whose_numbers_are_right(page) -> None:
    assert page(MEANS) == []


@pytest.mark.parametrize(
    ("here", "instead", "said"),
    [
        ("0.40 ±", "0.41 ±", "PAGE.md:14: 'h = 0': '0.41 ± 0.02' is not 0.4012"),
        ("± 0.02", "± 0.03", "is not 0.4012"),
        ("0.40 ± 0.02", "0.40", "'0.40' is not"),
        ("0.40 ±", "−0.40 ±", "'−0.40 ± 0.02' is not 0.4012"),
        ("| supported |", "|", "PAGE.md:14: 3 cells under 4 columns"),
        ("supported |", "contradicted |", "'contradicted' is not supported"),
        ("| 8 | | |", "| 8 | 0.3 | |", "0 rows with {'T': '8', 'h': '0'}"),
        ('where: {T: "{T}"}', "where: {}", "column 'T' is compared with nothing"),
        ("{CamVid: camvid}", "{CamVid: cityscapes}", "0 rows"),
        ("  verdict: {where: {h: 0}, take: [verdict]}\n", "", "column 'verdict' is compared with nothing"),
        ("verdict: {where", "p: {where", "the table has no column p"),
        ("{set}.csv", "{sets}.csv", "the comment cannot be understood: KeyError('sets')"),
        ("cells:", "cells", "the comment cannot be understood"),
        ("<!-- quoted", "<!-- said", "PAGE.md:12: no comment says which file"),
        ("-->\n", "-->\nA line.\n", "no comment says which file"),
        ("<!-- quoted\n", "<!-- not quoted: -->\n<!--", "no comment says which file"),
    ],
)
def test_what_is_wrong_is_said(page, here: str, instead: str, said: str) -> None:
    assert MEANS.count(here) == 1
    found = page(MEANS.replace(here, instead))
    assert any(said in line for line in found), found


def test_a_table_with_the_columns_of_its_file(page) -> None:
    text = """<!-- quoted: tables/primary.csv -->

| contrast | pairs | mean difference | 95% interval | p |
|---|---|---|---|---|
| h = 0.5 against h = 0 | 8 | +0.020 | +0.014 to +0.026 | <0.001 |
| `fcn` | 3 | +0.1 | | 0.20 |
"""
    assert page(text) == []
    assert page(text.replace("+0.014 to", "+0.013 to"))
    assert page(text.replace("<0.001", "0.001"))
    assert page(text.replace("| `fcn`", "| `emanet`"))
    assert page(text.replace("| 8 |", "| 7 |"))


def test_several_columns_may_tell_the_rows_apart(page) -> None:
    text = """<!-- quoted: tables/camvid.csv by T, h -->

| T | h | mIoU |
|---|---|---|
| 3 | 0 | 0.401 |
| 3 | 0.5 | 0.5 |
| 8 | 0.5 | 0.3 |
"""
    assert page(text) == []
    assert page(text.replace("| 0.5 | 0.5 |", "| 0.5 | 0.4 |"))
    assert "2 rows" in page(text.replace("by T, h", "by T"))[0]
    assert "KeyError('k')" in page(text.replace("by T, h", "by T, k"))[0]


def test_the_columns_of_a_table_may_be_the_rows_of_its_file(page) -> None:
    text = """<!-- quoted
file: tables/camvid.csv
where: {T: 3}
each: {where: {h: "{column}"}, take: ["{h}"]}
-->
| h | 0 | 0.5 |
|---|---|---|
| mIoU | 0.40 | 0.50 |
| high | 0.42 | 0.60 |
"""
    assert page(text) == []
    assert page(text.replace("0.42", "0.43"))
    assert page(text.replace("| 0.5 |", "| 0.6 |"))


def test_a_table_has_all_rows_of_its_file_or_says_that_it_has_some(page) -> None:
    text = """<!-- quoted: tables/primary.csv -->

| contrast | pairs |
|---|---|
| h = 0.5 against h = 0 | 8 |
"""
    assert page(text) == ["PAGE.md:3: 1 of the 2 rows of tables/primary.csv"]
    assert page(text.replace(".csv -->", ".csv; some rows -->")) == []


def test_a_difference_is_paired_by_seed(page, tmp_path: Path) -> None:
    first, second = (0.3971, 0.3711, 0.3539), (0.2422, 0.2004, 0.2021)
    rows = [["a", " ".join(map(str, first))], ["b", " ".join(map(str, second))], ["c", "0.1 0.2"]]
    write_table(tmp_path / "tables" / "seeds.csv", ["setting", "scores"], rows)
    differences = np.subtract(first, second)
    half = stats.t.ppf(0.975, 2) * differences.std(ddof=1) / np.sqrt(3)
    shown = f"{differences.mean():+.4f} ± {half:.4f}"
    text = f"""<!-- quoted
file: tables/seeds.csv
cells: {{gain: {{where: {{setting: "{{one}}"}}, minus: {{setting: "{{less}}"}}, take: [scores]}}}}
-->

| one | less | gain |
|---|---|---|
| a | b | {shown} |
"""
    assert page(text) == []
    assert page(text.replace("| a | b |", "| b | a |"))
    assert "no pairs of scores" in page(text.replace("| b |", "| c |"))[0]


TEXT = """# Page

At the head: 0.40.

## Scores

The score is {} and the level 0.95, by `0.123` [there](0.456).

<!-- quoted: tables/camvid.csv by T, h -->

| T | h | mIoU |
|---|---|---|
| 3 | 0 | 0.401 |
| 3 | 0.5 | 0.5 |
| 8 | 0.5 | 0.3 |

<!-- not quoted: 0.95 is the level -->

## Elsewhere

Nothing of 1.5 hours.
"""


def test_a_number_in_the_text_is_in_a_table_of_its_section(page) -> None:
    wrong = "is in no quoted table of its section"
    assert page(TEXT.format("0.40")) == []
    assert page(TEXT.format("0.41")) == [f"PAGE.md:7: 0.41 {wrong}"]
    assert page(TEXT.format("−0.40")) == [f"PAGE.md:7: -0.40 {wrong}"]
    assert page(TEXT.format("0.40").replace("0.95 is the level", "it is")) == [f"PAGE.md:7: 0.95 {wrong}"]
    assert page(TEXT.format("0.40").replace("Nothing of", "0.40 of")) == [f"PAGE.md:21: 0.40 {wrong}"]
    assert page(TEXT.format("0.40").replace("head: 0.40", "head: 0.42")) == [f"PAGE.md:3: 0.42 {wrong}"]
    named = TEXT.format("0.0263").replace("## Elsewhere", "<!-- in the text: {} -->\n\n## Elsewhere")
    assert page(named.format("tables/primary.csv")) == []
    assert page(named.format("tables/camvid.csv")) == [f"PAGE.md:7: 0.0263 {wrong}"]


@pytest.mark.parametrize(
    ("here", "instead", "said"),
    [
        ("The score is", "- one\n    - which is 0.77 and", "0.77"),  # a list in a list
        ("The score is", "`a and\n\nthe score 0.77 and", "0.77"),  # a backtick without its other
        ("The score is", "With p < 0.31 it is", "< 0.31"),
        ("The score is", "A share of 77 % and", "77 %"),
        ("The score is", "A size of 7.7e-2 and", "7.7e-2"),
        ("## Elsewhere", "### Part\n\n- **0.77**\n\n## Elsewhere", "0.77"),
    ],
)
def test_a_number_is_found_wherever_it_stands(page, here: str, instead: str, said: str) -> None:
    found = page(TEXT.format("0.40").replace(here, instead))
    assert [line.partition(": ")[2] for line in found] == [f"{said} is in no quoted table of its section"]


def test_a_column_of_a_file_may_be_named(page) -> None:
    named = TEXT.format("0.42").replace(
        "## Elsewhere", "<!-- in the text: tables/camvid.csv [{}] -->\n\n## Elsewhere"
    )
    assert page(named.format("T, high")) == []
    assert "0.42 is in no" in page(named.format("T, h"))[0]
    assert page(named.format("high, low"))[0].endswith("tables/camvid.csv has no column low")


@pytest.mark.parametrize(
    ("here", "instead", "said"),
    [
        ("| 2 rows |", "| in 2 rows |", "'in 2 rows' is not 2 rows"),
        ("| 2 rows |", "| 2 % |", "'2 %' is not 2 rows"),
        ("| 2 rows |", "| |", "'' is not 2 rows"),
        ("| y | 3 |", "| x | 2 rows |", "two rows are the same"),
        ("| a | b |", "| a | a |", "two columns are the same"),
        ("|---|---|", "---|---", "begin and end each line of a table with |"),
        ("|---|---|", "|---|\t---|", "begin and end each line of a table with |"),
    ],
)
def test_no_word_and_no_row_of_a_whole_table_can_be_another(
    page, tmp_path: Path, here: str, instead: str, said: str
) -> None:
    write_table(tmp_path / "tables" / "words.csv", ["a", "b"], [["x", "2 rows"], ["y", "3"], ["z|", "4"]])
    head = "<!-- quoted: tables/words.csv -->\n\n| a | b |\n|---|---|\n"
    text = f"{head}| x | 2 rows |\n| y | 3 |\n| z\\| | **4** |\n"
    assert page(text) == []
    assert any(said in line for line in page(text.replace(here, instead)))


def test_tables_are_replaced_by_what_their_files_have_now(page, tmp_path: Path) -> None:
    """Rows change and are added as a study goes on; a table of some rows and all else stay as they are."""
    text = """# Page

<!-- quoted: tables/grows.csv -->

| a | b |
|---|---|
| x |  |

<!-- quoted: tables/grows.csv; some rows -->

| a | b |
|---|---|
| x |  |

The end.
"""
    write_table(tmp_path / "tables" / "grows.csv", ["a", "b"], [["x", ""]])
    assert page(text) == []
    assert rewritten(tmp_path / "PAGE.md") == text
    table_of.cache_clear()
    write_table(tmp_path / "tables" / "grows.csv", ["b", "a"], [[1, "w"], ["2|3", "x"]])
    assert rewritten(tmp_path / "PAGE.md") == text.replace("| x |  |", "| w | 1 |\n| x | 2\\|3 |", 1)
    table_of.cache_clear()
    write_table(tmp_path / "tables" / "grows.csv", ["a", "b"], [["w", ""]])
    assert rewritten(tmp_path / "PAGE.md") == text.replace("| x |", "| w |", 1)
    table_of.cache_clear()
    write_table(tmp_path / "tables" / "grows.csv", ["a", "c"], [["w", 1]])
    assert rewritten(tmp_path / "PAGE.md") == text  # the page has a column that the file has not


def test_a_table_without_a_file_gives_its_reason(page) -> None:
    table = "\n| a |\n|---|\n| 1 |\n"
    assert page(f"<!-- not quoted: one run -->{table}") == []
    assert page(f"<!-- not quoted: -->{table}") == ["PAGE.md:2: a table that is not quoted gives no reason"]


def test_a_table_of_words_is_text(page) -> None:
    words = "\n<!-- not quoted: words -->\n| claim | answer |\n|---|---|\n| one | it is {} |\n"
    quoted_table = "\n<!-- quoted: tables/primary.csv -->\n| contrast | p |\n|---|---|\n| `fcn` | 0.2 |\n"
    quoted_table = quoted_table.replace(" -->", "; some rows -->")
    assert page(words.format("0.20") + quoted_table) == []
    assert page(words.format("0.21") + quoted_table) == [
        "PAGE.md:5: 0.21 is in no quoted table of its section"
    ]
    assert page(words.format("`0.4112`, 3") + quoted_table) == []


@pytest.mark.parametrize(
    ("shown", "known", "same"),
    [
        ("0.40", "0.4012", True),
        ("0.41", "0.4049", False),
        ("-0.5", "-0.54", True),
        ("0.5", "-0.5", False),
        ("136", "135.93290897452886", True),
        ("2.5e-05", "2.543e-05", True),
        ("2.5e-05", "2.6e-05", False),
        ("<0.001", "2.5e-05", True),
        ("<0.001", "0.002", False),
        ("0.0005", "<0.001", False),
        ("<0.001", "<0.001", True),
        ("<0.006", "<0.001", False),
    ],
)
def test_numbers_agree_to_the_digits_that_are_shown(shown: str, known: str, same: bool) -> None:
    [one], [other] = numbers(shown), numbers(known)
    assert agrees(one, other) == same


def test_the_command_ends_with_1_if_anything_is_wrong(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        quoted.main([])
    path = tmp_path / "PAGE.md"
    path.write_text("| a |\n|---|\n| 1 |\n")
    with pytest.raises(SystemExit, match="1"):
        quoted.main([str(path)])
    assert "PAGE.md:1: no comment" in capsys.readouterr().out
    write_table(tmp_path / "numbers.csv", ["a"], [["2"]])
    path.write_text("<!-- quoted: numbers.csv -->\n\n| a |\n|---|\n| 1 |\n")
    with pytest.raises(SystemExit, match="0"):
        quoted.main([str(path), "--write"])
    assert path.read_text().endswith("\n| 2 |\n")
    path.write_text("<!-- in the text: none.csv -->\n")
    with pytest.raises(SystemExit, match=r"cannot be read or written .*none\.csv"):
        quoted.main([str(path)])


@pytest.mark.parametrize(
    ("runs", "experiment", "tables"),
    [
        ("study_primary", "camvid_lite_hem", "study"),
        ("camvid_hem_small/deep", "camvid_hem_small", "camvid_hem_small/deep_tables"),
        ("camvid_hem_small/variance_1", "camvid_hem_small", "camvid_hem_small/variance_1_tables"),
        ("camvid_hem_small/average", "camvid_hem_small", "camvid_hem_small/average_tables"),
    ],
)
def test_the_committed_tables_are_those_of_the_committed_runs(
    runs: str, experiment: str, tables: str, tmp_path: Path, capsys
) -> None:
    results = HERE / "results"
    study.main([str(results / runs), "--experiment", experiment, "--tables", str(tmp_path)])
    made = {path.name: path.read_text("utf-8") for path in tmp_path.glob("*.csv")}
    kept = {path.name: path.read_text("utf-8") for path in (results / tables).glob("*.csv")}
    common = made.keys() & kept.keys()
    assert len(common) >= 3
    assert {name: kept[name] for name in common} == {name: made[name] for name in common}
    # The others there are the report's.
    assert all(name.startswith("camvid_hem_small_") for name in kept.keys() - made.keys())


@pytest.mark.parametrize("name", ["none.md", "folder", "bytes.md"])
def test_a_page_that_cannot_be_read_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe")
    with pytest.raises(SystemExit, match=r"cannot be read or written .*: name Markdown files"):
        quoted.main([str(tmp_path / name)])
