"""Where teacher files lie: in the package, in the source tree, in the user's cache.

A teacher ``NAME`` is a file ``NAME.safetensors``; beside it ``NAME.safetensors.sha256`` holds its checksum in the
form that ``sha256sum --check`` reads.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edge_ad_runtime.errors import RunError
from edge_ad_runtime.files import write_atomically

SUFFIX = ".safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_PACKAGE = Path(__file__).parent.parent
_SOURCE_TREE = _PACKAGE.parent.parent


class State(str, Enum):
    """What is known of a teacher's file."""

    VERIFIED = "verified"
    DAMAGED = "damaged"
    UNCHECKED = "no checksum"
    ABSENT = "not fetched"


@dataclass(frozen=True)
class Stored:
    """A teacher's file; ``place`` is ``shipped``, ``source tree`` or ``cache``."""

    name: str
    path: Path
    place: str


def cache_folder() -> Path:
    """The user's cache: ``$EDGE_AD_CACHE``, else ``$XDG_CACHE_HOME/edge-ad``, else ``~/.cache/edge-ad``."""
    if own := os.environ.get("EDGE_AD_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "edge-ad"


def cached_teacher(name: str) -> Path:
    """Where a fetched teacher lies, or would."""
    return cache_folder() / "teachers" / f"{name}{SUFFIX}"


def stored_teachers() -> dict[str, Stored]:
    """All teachers at hand by name; a shipped one goes before one of the cache."""
    places = [("shipped", _PACKAGE / "teachers"), ("cache", cached_teacher("").parent)]
    # The larger teachers stay out of the wheel: they are found where edge-ad runs from its sources.
    if (_SOURCE_TREE / "pyproject.toml").is_file() and _PACKAGE.parent.name == "sdk":
        places.insert(1, ("source tree", _SOURCE_TREE / "teachers"))
    found: dict[str, Stored] = {}
    for place, folder in places:
        for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
            found.setdefault(path.stem, Stored(path.stem, path, place))
    return found


def is_name(given: Path) -> bool:
    """Whether a path could be a teacher's name: one part, without an ending."""
    return _NAME.fullmatch(str(given)) is not None


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def write_checksum(path: Path) -> None:
    """Write the checksum beside a file."""
    write_atomically(_checksum_file(path), f"{digest(path)}  {path.name}\n".encode())


def check(path: Path) -> State:
    """Compare a file with the checksum beside it."""
    if not path.is_file():
        return State.ABSENT
    try:
        expected = _checksum_file(path).read_text("ascii").split()
    except FileNotFoundError:
        return State.UNCHECKED
    except ValueError:
        return State.DAMAGED
    return State.VERIFIED if expected and expected[0] == digest(path) else State.DAMAGED


def verified(stored: Stored) -> Path:
    """The teacher's file.

    Raises:
        RunError: it differs from its checksum.
    """
    if check(stored.path) is State.DAMAGED:
        raise RunError(
            f"{stored.path}: differs from its checksum ({_checksum_file(stored.path).name}); "
            + (
                f"fetch it again with 'edge-ad teachers fetch {stored.name}'"
                if stored.place == "cache"
                else "install edge-ad again"
            )
        )
    return stored.path


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
