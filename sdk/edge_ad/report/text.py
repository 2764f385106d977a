"""How values and names stand in the pages, the same in HTML and Markdown."""

from __future__ import annotations

from edge_ad.report.model import defined

UNDEFINED = "-"
_LONGEST = 100


def visible(text: str) -> str:
    """The text on one line, with characters that cannot be seen (line ends, directions of writing) as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown_name(text: str) -> str:
    """A file's name: :func:`visible`, and of more than a hundred characters only the beginning and the end."""
    seen = visible(text)
    if len(seen) <= _LONGEST:
        return seen
    tail = _LONGEST * 2 // 3
    return f"{seen[: _LONGEST - tail - 1]}…{seen[-tail:]}"


def number(value: float | None, digits: int = 4) -> str:
    """With that many decimals; a dash where there is none."""
    known = defined(value)
    return UNDEFINED if known is None else f"{known:.{digits}f}"


def significant(value: float | None) -> str:
    """With three significant digits; a dash where there is none."""
    known = defined(value)
    return UNDEFINED if known is None else f"{known:.3g}"


def difference(before: float | None, after: float | None, digits: int = 4) -> str:
    """``after - before`` with its sign, of the values as they are, not as they are rounded."""
    a, b = defined(before), defined(after)
    return UNDEFINED if a is None or b is None else f"{b - a:+.{digits}f}"


def count(value: int | None, of: int) -> str:
    """``3 of 40``."""
    return UNDEFINED if value is None else f"{value} of {of}"


def megabytes(size: int) -> str:
    """In units of 1e6 bytes."""
    return f"{size / 1e6:.2f} MB"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def plural(n: int, singular: str, several: str | None = None) -> str:
    """``1 image``, ``2 images``."""
    return f"{n} {singular if n == 1 else several or singular + 's'}"
