"""Splitting the good images; every image's identity is its content's hash."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_ad.data.model import Dataset
from edge_ad_runtime.errors import DataError, ImageError

MIN_GOOD_IMAGES = 10
MIN_VALIDATION_IMAGES = 5


@dataclass(frozen=True)
class Split:
    """Training and validation images; no two have the same content, and none that of a test image.

    ``duplicates`` repeat another good image, ``leaking`` are test images too; both are left out.
    """

    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    duplicates: tuple[Path, ...]
    leaking: tuple[Path, ...]


def content_hash(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal.

    Raises:
        ImageError: the file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error


def split_good(dataset: Dataset, fraction: float, seed: int, group: str | None = None) -> Split:
    """Hold out a seeded share of the good images for validation (at least five images).

    A data set with validation images of its own (MVTec LOCO) keeps those instead: neither ``fraction`` nor
    ``seed`` changes anything then.

    Args:
        dataset: its good images are split.
        fraction: share of the images held out.
        seed: makes the split repeatable.
        group: a regular expression; images for which its first group (or the whole match) in the file's
            name is equal stay on one side, for parts that were photographed several times.

    Raises:
        DataError: there are no or too few images, or ``group`` is given and the data set is split already.
    """
    if not dataset.good:
        raise DataError(
            f"{dataset.root}: has no images of good parts to train on; put them into "
            f"{dataset.root / 'train' / 'good'}"
        )
    unique: dict[str, Path] = {}
    # Validation images come first: of two equal images, the one to train on goes.
    both = (*dataset.validation, *dataset.good)
    duplicates = [p for p in both if unique.setdefault(content_hash(p), p) != p]
    tested = {content_hash(image.path) for image in dataset.test}
    leaking = [path for digest, path in unique.items() if digest in tested]
    unique = {digest: path for digest, path in unique.items() if digest not in tested}
    paths = list(unique.values())
    if len(paths) < MIN_GOOD_IMAGES:
        raise DataError(
            f"{dataset.root}: {len(paths)} different good images are too few; "
            f"at least {MIN_GOOD_IMAGES} are needed, 50 or more are better"
        )
    if dataset.validation:
        validation = _own_validation(dataset, paths, group)
    else:
        validation = _random_validation(paths, fraction, seed, group)
    train = tuple(p for p in paths if p not in validation)
    if len(train) < MIN_VALIDATION_IMAGES:
        if dataset.validation:
            hint = "add some"
        else:
            hint = "hold out a smaller share" + (" or use finer groups" if group is not None else "")
        raise DataError(f"{dataset.root}: {len(train)} images are left to train on; {hint}")
    held = tuple(p for p in paths if p in validation)
    return Split(train, held, tuple(duplicates), tuple(leaking))


def _own_validation(dataset: Dataset, paths: list[Path], group: str | None) -> set[Path]:
    if group is not None:
        raise DataError(f"{dataset.root}: has validation images of its own, so there is nothing to group")
    held = set(dataset.validation).intersection(paths)
    if len(held) < MIN_VALIDATION_IMAGES:
        raise DataError(
            f"{dataset.root}: validation/good has {len(held)} different images; at least "
            f"{MIN_VALIDATION_IMAGES} are needed. Add some, or move them to train/good"
        )
    return held


def _random_validation(paths: list[Path], fraction: float, seed: int, group: str | None) -> set[Path]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[_group_key(path, group)].append(path)
    wanted = max(MIN_VALIDATION_IMAGES, round(fraction * len(paths)))
    names = sorted(groups)
    validation: set[Path] = set()
    for index in np.random.default_rng(seed).permutation(len(groups)):
        if len(validation) >= wanted:
            break
        validation.update(groups[names[index]])
    return validation


def _group_key(path: Path, group: str | None) -> str:
    if group is None:
        return path.name
    try:
        match = re.search(group, path.stem)
    except re.error as error:
        raise DataError(f"the group expression '{group}' is not a regular expression ({error})") from error
    if match is None or match.group(bool(match.re.groups)) is None:
        raise DataError(f"{path}: the group expression '{group}' does not match this file's name")
    return str(match.group(bool(match.re.groups)))
