"""Finding the images of a data set, whichever of the known layouts it has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from edge_ad.data.loco import CONFIG_FILE, read_saturation
from edge_ad.data.model import Dataset, TestImage
from edge_ad.data.visa import is_visa, read_visa
from edge_ad_runtime.errors import DataError
from edge_ad_runtime.images import list_images

_LOCO_KINDS = frozenset({"logical_anomalies", "structural_anomalies"})


def read_dataset(root: Path) -> Dataset:
    """Read a data set as it is; its layout is recognized by its folders.

    - MVTec AD: ``train/good``, ``test/<kind>``, ``ground_truth/<kind>/<name>_mask.png``. One of ``train`` and
      ``test`` is enough: training asks for good images, evaluation for labelled ones.
    - MVTec LOCO: the same with ``validation/good``, ``ground_truth/<kind>/<name>/*.png`` and
      ``defects_config.json``.
    - VisA: a category with ``Data/Images``, beside ``split_csv/1cls.csv``.
    - Any other folder: its images are good ones.

    Raises:
        DataError: the folder is missing or holds no images in any of these places, two test images would share
            a mask, or a file that belongs to the layout is damaged.
    """
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    if is_visa(root):
        return read_visa(root)
    if (root / "train").is_dir() or (root / "test").is_dir():
        return _read_mvtec(root)
    good = list_images(root)
    if not good:
        if inside := find_datasets(root):
            names = ", ".join(p.name for p in inside)
            raise DataError(f"{root}: holds several data sets; give one of them: {names}")
        raise DataError(f"{root}: holds no images (PNG, JPEG, BMP, TIFF or WebP)")
    return Dataset(root, tuple(good), ())


def find_datasets(root: Path) -> list[Path]:
    """The folders directly in ``root`` that have the layout of MVTec AD, MVTec LOCO or VisA, sorted by name.

    Raises:
        OSError: ``root`` cannot be listed.
    """
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [p for p in folders if is_visa(p) or (p / "train" / "good").is_dir() or (p / "test").is_dir()]


def _read_mvtec(root: Path) -> Dataset:
    warnings: list[str] = []
    train, held = root / "train" / "good", root / "validation" / "good"
    good = list_images(train) if train.is_dir() else []
    test = _test_images(root, warnings)
    if not good and not test:
        what = (
            "holds no images" if train.is_dir() else "has no train/good folder with the images of good parts"
        )
        raise DataError(f"{root}: {what}, and no test images (test/good, test/<defect>) either")
    if not good and (root / "train").is_dir():
        warnings.append(f"{train}: holds no images")
    config = root / CONFIG_FILE
    loco = config.is_file() or any(image.kind in _LOCO_KINDS for image in test)
    return Dataset(
        root,
        tuple(good),
        tuple(test),
        validation=tuple(list_images(held)) if held.is_dir() else (),
        layout="mvtec-loco" if loco else "mvtec-ad",
        saturation=read_saturation(config) if config.is_file() else {},
        warnings=tuple(warnings),
    )


def _test_images(root: Path, warnings: list[str]) -> list[TestImage]:
    test = root / "test"
    if not test.is_dir():
        return []
    if loose := list_images(test):
        warnings.append(
            f"{test}: {len(loose)} images lie directly in it and are left out; put them into test/good or "
            "test/<defect>"
        )
    found = []
    for folder in sorted(p for p in test.iterdir() if p.is_dir() and not p.name.startswith(".")):
        images = list_images(folder)
        if not images:
            warnings.append(f"{folder}: holds no images")
        of_kind = [TestImage(path, folder.name, _masks(root, folder.name, path.stem)) for path in images]
        _check_stems(of_kind, warnings)
        found += of_kind
    return found


def _masks(root: Path, kind: str, stem: str) -> tuple[Path, ...]:
    masks = root / "ground_truth" / kind
    if (masks / stem).is_dir():
        return tuple(list_images(masks / stem))
    candidates = (masks / f"{stem}_mask.png", masks / f"{stem}.png")
    return tuple([m for m in candidates if m.is_file()][:1])


def _check_stems(images: list[TestImage], warnings: list[str]) -> None:
    """Masks and anomaly maps are named by an image's stem, so two images must not share one."""
    counts = Counter(image.path.stem for image in images)
    for stem in [s for s, count in counts.items() if count > 1]:
        same = [image for image in images if image.path.stem == stem]
        names = " and ".join(image.path.name for image in same)
        where = same[0].path.parent
        if any(image.masks for image in same):
            raise DataError(f"{where}: {names} would share the mask {same[0].mask}; rename one, and its mask")
        warnings.append(f"{where}: {names} differ only in their ending, so their anomaly maps share a name")
