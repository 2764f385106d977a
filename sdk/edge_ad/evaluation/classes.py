"""The table that people know from classification: accuracy, precision and recall of each folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_ad_runtime.errors import InputError

GOOD = "good"
"""The folder of good images."""


@dataclass(frozen=True)
class ClassFigures:
    """What a threshold does to the images of one folder, or to all of them; a reject is the positive answer.

    ``accuracy`` is the share of right verdicts, ``precision`` the share of defects among the rejected images
    and ``recall`` the share of the defects that were rejected, all 0 to 1 and over these images alone. So
    within a folder of defects precision is 1 as soon as anything is rejected and recall is the accuracy.
    None is what has no meaning: precision and recall among good images, precision where nothing was rejected.
    """

    name: str
    images: int
    accuracy: float
    precision: float | None
    recall: float | None


def class_figures(kinds: Sequence[str], rejected: Sequence[bool]) -> tuple[ClassFigures, ...]:
    """One row for each kind, by name; ``good`` is a kind like the others.

    Raises:
        InputError: the lengths differ.
    """
    _check(kinds, rejected)
    rows = []
    for kind in sorted(set(kinds)):
        answers = [r for k, r in zip(kinds, rejected, strict=True) if k == kind]
        rows.append(overall_figures([kind] * len(answers), answers, kind))
    return tuple(rows)


def overall_figures(kinds: Sequence[str], rejected: Sequence[bool], name: str = "overall") -> ClassFigures:
    """The row over all images.

    Raises:
        InputError: the lengths differ, or there are no images.
    """
    _check(kinds, rejected)
    if not kinds:
        raise InputError("there are no images to count")
    defects = [kind != GOOD for kind in kinds]
    right = sum(d == r for d, r in zip(defects, rejected, strict=True))
    found = sum(d and r for d, r in zip(defects, rejected, strict=True))
    any_defect = any(defects)
    return ClassFigures(
        name=name,
        images=len(kinds),
        accuracy=right / len(kinds),
        precision=found / sum(rejected) if any_defect and any(rejected) else None,
        recall=found / sum(defects) if any_defect else None,
    )


def _check(kinds: Sequence[str], rejected: Sequence[bool]) -> None:
    if len(kinds) != len(rejected):
        raise InputError(f"{len(kinds)} kinds and {len(rejected)} verdicts do not belong together")
