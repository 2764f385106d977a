"""Finding the images of a data set and splitting them; every image's identity is its content's hash."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.errors import DataError, ImageError
from edge_ad_runtime.images import list_images, read_image

MIN_GOOD_IMAGES = 10
MIN_VALIDATION_IMAGES = 5


@dataclass(frozen=True)
class TestImage:
    """One labelled image; ``kind`` is its folder (``good``, ``broken_large``, …), ``mask`` may be missing."""

    path: Path
    kind: str
    mask: Path | None

    @property
    def defect(self) -> bool:
        return self.kind != "good"


@dataclass(frozen=True)
class Dataset:
    """The images of a data set: good ones to train on, labelled ones to test on (none in a plain folder)."""

    root: Path
    good: tuple[Path, ...]
    test: tuple[TestImage, ...]


@dataclass(frozen=True)
class Split:
    """Training and validation images; no two have the same content, and none that of a test image.

    ``duplicates`` repeat another good image, ``leaking`` are test images too; both are left out.
    """

    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    duplicates: tuple[Path, ...]
    leaking: tuple[Path, ...]


def read_dataset(root: Path) -> Dataset:
    """Read the MVTec AD layout (``train/good``, ``test/*``, ``ground_truth/*``) or a plain folder of good images.

    Raises:
        DataError: the folder is missing, or holds neither.
    """
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    good_folder = root / "train" / "good"
    if not good_folder.is_dir():
        if (root / "train").is_dir() or (root / "test").is_dir():
            raise DataError(f"{root}: has no train/good folder with the images of good parts")
        good_folder = root
    good = list_images(good_folder)
    if not good:
        raise DataError(f"{good_folder}: holds no images (PNG, JPEG, BMP, TIFF or WebP)")
    return Dataset(root, tuple(good), tuple(_test_images(root)))


def _test_images(root: Path) -> list[TestImage]:
    test = root / "test"
    if not test.is_dir():
        return []
    found = []
    for folder in sorted(p for p in test.iterdir() if p.is_dir()):
        masks = root / "ground_truth" / folder.name
        for path in list_images(folder):
            candidates = [masks / f"{path.stem}_mask.png", masks / f"{path.stem}.png"]
            mask = next((m for m in candidates if m.is_file()), None)
            found.append(TestImage(path, folder.name, mask))
    return found


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

    Args:
        dataset: its good images are split.
        fraction: share of the images held out.
        seed: makes the split repeatable.
        group: a regular expression; images for which its first group (or the whole match) in the file's
            name is equal stay on one side, for parts that were photographed several times.

    Raises:
        DataError: there are too few images.
    """
    unique: dict[str, Path] = {}
    duplicates = [p for p in dataset.good if unique.setdefault(content_hash(p), p) != p]
    tested = {content_hash(image.path) for image in dataset.test}
    leaking = [path for digest, path in unique.items() if digest in tested]
    unique = {digest: path for digest, path in unique.items() if digest not in tested}
    paths = list(unique.values())
    if len(paths) < MIN_GOOD_IMAGES:
        raise DataError(
            f"{dataset.root}: {len(paths)} different good images are too few; "
            f"at least {MIN_GOOD_IMAGES} are needed, 50 or more are better"
        )
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[_group_key(path, group)].append(path)
    wanted = max(MIN_VALIDATION_IMAGES, round(fraction * len(paths)))
    order = np.random.default_rng(seed).permutation(len(groups))
    names = sorted(groups)
    validation: set[Path] = set()
    for index in order:
        if len(validation) >= wanted:
            break
        validation.update(groups[names[index]])
    train = tuple(p for p in paths if p not in validation)
    if len(train) < MIN_VALIDATION_IMAGES:
        raise DataError(f"{dataset.root}: the groups leave {len(train)} images to train on; use finer groups")
    held = tuple(p for p in paths if p in validation)
    return Split(train, held, tuple(duplicates), tuple(leaking))


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


def read_mask(path: Path, height: int, width: int) -> npt.NDArray[np.bool_]:
    """A ground-truth mask as ``bool HxW``, resized (nearest) to the given size; any non-zero value is defect.

    Raises:
        ImageError: the file is damaged.
    """
    mask = read_image(path).max(axis=2)
    if mask.shape != (height, width):
        mask = np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
    return np.asarray(mask > 0, np.bool_)
