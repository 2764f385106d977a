"""What the URLs of triggers, encoders and belt signals share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.outputs.query import Query


@dataclass(frozen=True)
class Address:
    """A URL in its parts; ``where`` begins every message about it."""

    where: str
    parts: SplitResult

    @property
    def scheme(self) -> str:
        return self.parts.scheme

    def query(self, *accepted: str) -> Query:
        return Query(self.parts.query, self.where, accepted)

    def wrong(self, why: str) -> InputError:
        return InputError(f"{self.where}: {why}")

    def path(self, example: str) -> str:
        """The path of ``scheme:///path``.

        Raises:
            InputError: there is none, or a host is given.
        """
        path = unquote(self.parts.path)
        if self.parts.netloc or len(path) < 2:
            raise self.wrong(f"the path follows three slashes, as in {example}")
        return path

    def host(self, default_port: int | None, example: str) -> tuple[str, int]:
        """Host and port of ``scheme://host:port``.

        Raises:
            InputError: one is missing or wrong, or a user is given.
        """
        try:
            host, port = self.parts.hostname, self.parts.port or default_port
        except ValueError as error:
            raise self.wrong(str(error)) from None
        if not host or not port or "@" in self.parts.netloc:
            raise self.wrong(f"give host and port, as in {example}")
        return host, port

    def bounded(self, query: Query, key: str, default: float, low: float, high: float) -> float:
        """A number within bounds."""
        value = query.number(key, default)
        if not low <= value <= high:
            raise self.wrong(f"{key}={value:g} must be {low:g} to {high:g}")
        return value


def address(kind: str, url: str) -> Address:
    """
    Raises:
        InputError: it is not a URL.
    """
    where = f"{kind} '{re.sub(r'//[^/@]*@', '//***@', url)}'"
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"{where}: not a URL ({error})") from None
    if parts.fragment:
        raise InputError(f"{where}: write '%23' for '#'")
    return Address(where, parts)


def max_rate(where: Address, query: Query) -> float:
    """The highest rate of an encoder whose counter may be reset, in counts a second.

    Raises:
        InputError: it is not given or out of range.
    """
    value = query.number("max_rate", 0.0)
    if not 0 < value <= 1e7:
        raise where.wrong(
            "needs max_rate=, the most counts a second that the belt can make (at most 1e7): "
            "only so a counter that was reset is told from a belt that moved"
        )
    return value


def max_back(query: Query) -> int | None:
    """After how many counts backwards an encoder fails; None for never."""
    return query.integer("max_back", 0, 0, 10**9) if query.text("max_back", "") else None
