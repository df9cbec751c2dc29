"""A report as its reader has it: the page, and the tables beside it."""

import csv
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """Collects what a page has and asks for, and fails on tags that do not match."""

    VOID = ("meta", "img", "br", "link", "input", "hr", "wbr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(out: Path) -> Page:
    return Page((out / "index.html").read_text())


def table_of(out: Path, name: str) -> list[dict[str, str]]:
    with (out / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))
