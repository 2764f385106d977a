"""Reading COCO instance annotations. Source of the format: cocodataset.org/#format-data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from edge_ad_runtime.errors import DataError

Id: TypeAlias = int | str
_SHOWN = 10


class CocoImage(msgspec.Struct, frozen=True):
    """An image's entry; ``file_name`` counts from the images' folder, the size is in pixels."""

    id: Id
    file_name: str
    width: int | None = None
    height: int | None = None


class CocoCategory(msgspec.Struct, frozen=True):
    """A category's entry."""

    id: Id
    name: str


class CocoRle(msgspec.Struct, frozen=True):
    """A mask as run lengths, column by column: ``size`` is height and width, ``counts`` a list, or compressed."""

    size: tuple[int, int]
    counts: str | list[int]


class CocoAnnotation(msgspec.Struct, frozen=True):
    """One region: polygons ``[x, y, x, y, …]``, run lengths, or only a box ``[x, y, width, height]``."""

    image_id: Id
    category_id: Id
    id: Id | None = None
    segmentation: list[list[float]] | CocoRle | None = None
    bbox: list[float] | None = None


class CocoFile(msgspec.Struct, frozen=True):
    """The parts of an annotation file that matter here; everything else in it is passed over."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def read_coco(path: Path) -> CocoFile:
    """Read an annotation file and check that its parts refer to one another.

    Raises:
        DataError: the file cannot be read, is not of this format, or refers to images or categories that it
            does not list.
    """
    try:
        coco = msgspec.json.decode(path.read_bytes(), type=CocoFile)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: these are not COCO instance annotations ({error})") from error
    problems = [
        *_repeated("image id", [i.id for i in coco.images]),
        *_repeated("category id", [c.id for c in coco.categories]),
        *_unknown("image", [a.image_id for a in coco.annotations], {i.id for i in coco.images}),
        *_unknown("category", [a.category_id for a in coco.annotations], {c.id for c in coco.categories}),
    ]
    raise_problems(path, problems)
    return coco


def raise_problems(path: Path, problems: Sequence[str]) -> None:
    """Raise one error that lists the problems (the first ten); nothing if there are none.

    Raises:
        DataError: there is a problem.
    """
    if not problems:
        return
    lines = list(problems[:_SHOWN])
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN} more")
    head = f"{path}: " if len(lines) == 1 else f"{path}: {len(problems)} problems\n  "
    raise DataError(head + "\n  ".join(lines))


def _repeated(what: str, ids: Sequence[Id]) -> list[str]:
    return [f"the {what} {i!r} is given {count} times" for i, count in Counter(ids).items() if count > 1]


def _unknown(what: str, ids: Sequence[Id], known: set[Id]) -> list[str]:
    counts = Counter(i for i in ids if i not in known)
    return [
        f"{count} annotations refer to the {what} {i!r}, which is not listed" for i, count in counts.items()
    ]
