"""What a browser's parser makes of a page, and Markdown's tables."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes, text and tables of an HTML page.

    Raises:
        AssertionError: a tag is not closed, or another one is.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            assert "url(" not in data and "@import" not in data
            return
        self.text += data
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def row(self, first: str) -> list[str]:
        """The only row of all tables that begins with this cell, without it."""
        found = [row for table in self.tables for row in table if row[0] == first]
        assert len(found) == 1, (first, found)
        return found[0][1:]


def markdown_tables(text: str) -> list[list[list[str]]]:
    """The tables of GitHub's Markdown, escapes undone; the rule below the head is left out."""
    tables: list[list[list[str]]] = []
    inside = False
    for line in text.split("\n"):
        if not line.startswith("|"):
            inside = False
            continue
        if not inside:
            tables.append([])
        inside = True
        cells = _cells(line)
        if not all(re.fullmatch("-+:?", c) for c in cells):
            tables[-1].append(cells)
    return tables


def _cells(line: str) -> list[str]:
    """The cells of a row; a character after a backslash is itself."""
    cells, escaped = [""], False
    for character in line:
        if escaped or character not in "\\|":
            cells[-1] += character
            escaped = False
        elif character == "|":
            cells.append("")
        else:
            escaped = True
    return [cell.strip() for cell in cells[1:-1]]
