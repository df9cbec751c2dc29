"""Files of a report: what their names stand for, and tables that a spreadsheet opens."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemnet.report.contents import Column, Table
from hemnet.report.file_names import file_names

names = st.lists(st.tuples(st.text(max_size=120), st.integers()), unique_by=lambda pair: pair, max_size=6)


@given(names)
def test_files_of_other_contents_have_other_names_on_every_file_system(wanted: list[tuple[str, int]]) -> None:
    found = file_names(wanted)
    assert all((name.isascii() and len(name) < 120 and name.replace("_", "").isalnum()) or not name.strip("_")
               for name in found)  # fmt: skip
    contents: dict[str, set[int]] = {}
    for name, (_, content) in zip(found, wanted, strict=True):
        contents.setdefault(name.lower(), set()).add(content)
    assert all(len(each) == 1 for each in contents.values())


@given(names, st.randoms())
def test_a_name_does_not_depend_on_the_order(wanted: list[tuple[str, int]], random) -> None:
    shuffled = random.sample(wanted, len(wanted))
    assert dict(zip(wanted, file_names(wanted), strict=True)) == dict(
        zip(shuffled, file_names(shuffled), strict=True)
    )


@pytest.mark.parametrize("text", [
    "=HYPERLINK(1)", "+1+1", "-0.5/0.5", "@SUM(A1)", "\t=1", "\r=1", " =1", "-", "+cmd|' /C calc'!A0",
])  # fmt: skip
def test_a_spreadsheet_computes_no_text_of_a_table(text: str) -> None:
    table = Table("a", "", [Column(text)], [[text], [f"a{text}"]])
    rows = list(csv.reader(io.StringIO(table.csv(), newline="")))
    text = text.replace("\r", "\n")
    assert rows == [[f"'{text}"], [f"'{text}"], [f"a{text}"]]


@pytest.mark.parametrize("text", ["-0.5", "+1e-05", "-3", "a=b", "0.5", "–", "−0.5", ""])
def test_numbers_and_other_texts_stay_as_they_are(text: str) -> None:
    table = Table("a", "", [Column("b")], [[text]])
    assert list(csv.reader(io.StringIO(table.csv()))) == [["b"], [text]]


@given(st.floats())
def test_a_number_is_written_as_a_number(value: float) -> None:
    table = Table("a", "", [Column("b")], [[value]])
    assert float(table.csv().splitlines()[1]) == pytest.approx(value, nan_ok=True)
