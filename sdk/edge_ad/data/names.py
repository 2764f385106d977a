"""Names of folders and files that are safe on every file system and do not overwrite one another."""

from __future__ import annotations

import re
from pathlib import PurePath

# File systems allow 255 bytes; "_mask.png", a number and temporary names need some of them.
MAX_BYTES = 200
_UNSAFE = re.compile(r"[^\w.-]+")


def clean_name(name: str) -> str:
    """``name`` with letters, digits, ``_``, ``-`` and ``.`` only, not hidden; it may come out empty."""
    return _cut(_UNSAFE.sub("_", name).strip("._- "))


class DistinctNames:
    """Gives each file a name whose stem no other has, small and capital letters alike.

    The stem counts because masks and anomaly maps are named by it.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, name: str) -> str:
        """``name``, or the first free one of ``STEM-2.EXT``, ``STEM-3.EXT``, …; very long ones are cut."""
        path = PurePath(name)
        stem = _cut(path.stem)
        free, number = stem, 1
        while free.casefold() in self._taken:
            number += 1
            free = f"{stem}-{number}"
        self._taken.add(free.casefold())
        return free + path.suffix


def _cut(text: str) -> str:
    return text.encode("utf-8", "surrogateescape")[:MAX_BYTES].decode("utf-8", "ignore")
