"""On which line of a TOML file each key stands; the TOML readers do not say."""

from __future__ import annotations

import sys
from bisect import bisect_right

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KeyPath = tuple[str | int, ...]
"""Keys from the top down; a number is the place in an array, from 0."""

_SPACE = " \t"
_BLANK = " \t\r\n"
_ENDS_KEY = " \t.=]\r\n"
_ENDS_VALUE = ",]}#\r\n"


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of every key, table and array element of a valid TOML text.

    A table made by dotted keys or by the header of a table below it stands where it is first named.
    """
    return _Scanner(text).scan()


class _Scanner:
    """Goes through a text that a TOML reader has accepted, so nothing is checked again."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._breaks = [i for i, char in enumerate(text) if char == "\n"]
        self._lines: dict[KeyPath, int] = {}
        self._elements: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip_blank():
            if self._text.startswith("[[", self._at):
                table = self._header(2)
            elif self._text[self._at] == "[":
                table = self._header(1)
            else:
                self._pair(table)
        return self._lines

    def _note(self, path: KeyPath) -> None:
        self._lines.setdefault(path, bisect_right(self._breaks, self._at - 1) + 1)

    def _skip(self, chars: str) -> None:
        while self._at < len(self._text) and self._text[self._at] in chars:
            self._at += 1

    def _skip_blank(self) -> bool:
        """Past blanks and comments; whether something follows."""
        while True:
            self._skip(_BLANK)
            if not self._text.startswith("#", self._at):
                return self._at < len(self._text)
            end = self._text.find("\n", self._at)
            self._at = len(self._text) if end < 0 else end

    def _header(self, brackets: int) -> KeyPath:
        begin = self._at
        self._at += brackets
        keys = self._keys()
        after, self._at = self._text.index("]", self._at) + brackets, begin
        path: KeyPath = ()
        for i, key in enumerate(keys):
            path = (*path, key)
            last = i == len(keys) - 1
            self._note(path)
            if last and brackets == 2:
                self._elements[path] = self._elements.get(path, 0) + 1
            # Below an array of tables, its latest element is meant.
            if path in self._elements:
                path = (*path, self._elements[path] - 1)
                self._note(path)
        self._at = after
        return path

    def _pair(self, table: KeyPath) -> None:
        begin = self._at
        keys = self._keys()
        after, self._at = self._at, begin
        path = table
        for key in keys:
            path = (*path, key)
            self._note(path)
        self._at = after + 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _keys(self) -> list[str]:
        """The parts of a key; ends at what follows it."""
        keys = []
        while True:
            self._skip(_SPACE)
            keys.append(self._key())
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _key(self) -> str:
        begin = self._at
        if self._text[begin] in "\"'":
            self._string()
            # The reader knows the escapes.
            return str(tomllib.loads(f"key = {self._text[begin : self._at]}")["key"])
        while self._text[self._at] not in _ENDS_KEY:
            self._at += 1
        return self._text[begin : self._at]

    def _string(self) -> None:
        quote = self._text[self._at]
        fence = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        self._at += len(fence)
        while not self._text.startswith(fence, self._at):
            self._at += 2 if self._text[self._at] == "\\" and quote == '"' else 1
        self._at += len(fence)
        if len(fence) == 3:
            # Up to two quotes may stand before the closing three.
            self._skip(quote)

    def _value(self, path: KeyPath) -> None:
        char = self._text[self._at]
        if char in "\"'":
            self._string()
        elif char == "[":
            self._items(path, "]")
        elif char == "{":
            self._items(path, "}")
        else:
            while self._at < len(self._text) and self._text[self._at] not in _ENDS_VALUE:
                self._at += 1

    def _items(self, path: KeyPath, closing: str) -> None:
        """The elements of an array, or the pairs of an inline table."""
        self._at += 1
        number = 0
        while True:
            self._skip_blank()
            if self._text[self._at] == closing:
                self._at += 1
                return
            if self._text[self._at] == ",":
                self._at += 1
            elif closing == "}":
                self._pair(path)
            else:
                self._note((*path, number))
                self._value((*path, number))
                number += 1
