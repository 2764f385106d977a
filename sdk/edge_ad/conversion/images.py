"""Which images do what in a conversion."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_ad.data import Dataset, content_hash, read_dataset
from edge_ad.data.inputs import read_input
from edge_ad.run_folder import Run
from edge_ad_calibration.fit import MIN_IMAGES
from edge_ad_runtime.errors import DataError, ImageError
from edge_ad_runtime.images import read_image

# Ranges are extremes: more images than these change them little and cost time.
MAX_RANGE_IMAGES = 64
FEW_RANGE_IMAGES = 16
# The scatter of a threshold fitted on fewer scores is as large as the distance that it is to keep.
FEW_FIT_IMAGES = 20
# With so many, and no labels, a quarter is held back to measure on.
_ENOUGH_TO_HOLD_BACK = 40
# The training images whose sizes are looked at.
_SIZES_OF = 16


@dataclass(frozen=True)
class ImageSets:
    """``ranges`` quantize, ``fit`` (never trained on) give quantiles and threshold, ``held_back`` (in neither) are
    there to measure on where there are no labelled images; it may be empty."""

    ranges: tuple[Path, ...]
    fit: tuple[Path, ...]
    warnings: tuple[str, ...]
    held_back: tuple[Path, ...] = ()


def labelled_images(run: Run, given: Path | None) -> Dataset | None:
    """The labelled images to measure on: those given, or the run's own data if that is still there and has some.

    Raises:
        DataError: the given folder has no labelled images.
    """
    if given is not None:
        dataset = read_dataset(given)
        if not dataset.test:
            raise DataError(
                f"{given}: has no labelled test images (test/good, test/<defect>) to measure the cost on"
            )
        return dataset
    own = Path(run.config.data)
    if not own.is_dir():
        return None
    dataset = read_dataset(own)
    return dataset if dataset.test else None


def choose_images(run: Run, folder: Path, test: Dataset | None, seed: int) -> ImageSets:
    """Sort the calibration images by whether the run was trained on them.

    Quantiles and threshold take only images that were not trained on: those of the folder, else the run's
    own validation images, if they are still where they were. Ranges take the others, or all when there are few
    others. Test images are left out of both.

    Raises:
        DataError: there are too few images that were not trained on, they are of another size than those, or
            all of the folder's show the same picture.
    """
    given = read_dataset(folder)
    _check_different(folder, [*given.good, *given.validation])
    images = {content_hash(p): p for p in (*given.good, *given.validation)}
    warnings = list(given.warnings)
    tested = set() if test is None else {content_hash(i.path) for i in test.test}
    if leaking := [p for h, p in images.items() if h in tested]:
        warnings.append(
            f"{len(leaking)} calibration images are test images too and are left out ({leaking[0]}, …)"
        )
        images = {h: p for h, p in images.items() if h not in tested}
    trained = set(run.split.train.values())
    fit = {h: p for h, p in images.items() if h not in trained}
    if len(fit) < MIN_IMAGES:
        new, fit = len(fit), _validation_images(run)
        if len(fit) < MIN_IMAGES:
            raise DataError(
                f"{folder}: holds {new} images that the run was not trained on ({MIN_IMAGES} are needed), and the "
                f"run's own validation images are no longer in {run.config.data}; quantiles fitted on trained "
                "images would be too low. Give --calibration-images more good images"
            )
        warnings.append(
            f"{folder} holds {new} images that were not trained on: quantiles and threshold are fitted on the "
            "run's validation images"
        )
    others = [p for h, p in images.items() if h not in fit]
    ranges = sorted(others if len(others) >= FEW_RANGE_IMAGES else images.values())
    if len(ranges) < FEW_RANGE_IMAGES:
        warnings.append(
            f"{len(ranges)} calibration images are few for INT8 ranges; {FEW_RANGE_IMAGES} or more are safer"
        )
    if len(fit) < FEW_FIT_IMAGES:
        warnings.append(
            f"{len(fit)} images to fit quantiles and threshold on are few; the threshold is a rough one. "
            f"Recalibrate with {FEW_FIT_IMAGES} or more good parts that were not trained on"
        )
    generator = np.random.default_rng(seed)
    picks = np.sort(generator.permutation(len(ranges))[:MAX_RANGE_IMAGES])
    fitted = sorted(fit.values())
    held_back: list[Path] = []
    if test is None and len(fitted) >= _ENOUGH_TO_HOLD_BACK:
        chosen = set(generator.permutation(len(fitted))[: len(fitted) // 4].tolist())
        held_back = [p for i, p in enumerate(fitted) if i in chosen]
        fitted = [p for i, p in enumerate(fitted) if i not in chosen]
    chosen_ranges = tuple(ranges[i] for i in picks)
    _check_sizes(run, folder, [*chosen_ranges, *fitted])
    return ImageSets(chosen_ranges, tuple(fitted), tuple(warnings), tuple(held_back))


def _check_different(folder: Path, paths: Sequence[Path]) -> None:
    """Refuse a folder in which one picture stands for all, copied or encoded anew."""
    if len(paths) < 2:
        return
    first = read_image(paths[0])
    if all(np.array_equal(first, read_image(p)) for p in paths[1:]):
        raise DataError(
            f"{folder}: all {len(paths)} images show the same picture ({paths[0].name}, …); quantiles and INT8 "
            "ranges need different good parts"
        )


def _check_sizes(run: Run, folder: Path, paths: Sequence[Path]) -> None:
    """Refuse images that do not hold the run's region of interest, and those of a size that no training image
    looked at has, if the training images are still there."""
    if run.config.preprocess.roi is not None:
        for path in dict.fromkeys(paths):
            read_input(path, run.config.preprocess)
    names = sorted(run.split.train)
    data = Path(run.config.data)
    trained = {size for name in names[:: max(1, len(names) // _SIZES_OF)] for size in _size(data / name)}
    # Training images of many sizes are photographs, not one camera's frames.
    if not 0 < len(trained) <= 2:
        return
    for path in dict.fromkeys(paths):
        size = read_image(path).shape[:2]
        if size not in trained:
            known = " or ".join(f"{width}x{height}" for height, width in sorted(trained))
            raise DataError(
                f"{path}: is {size[1]}x{size[0]} pixels, but the run was trained on images of {known}; the network "
                f"would see parts of another scale. Give images from the same camera and crop (in {folder})"
            )


def _size(path: Path) -> list[tuple[int, ...]]:
    with contextlib.suppress(ImageError, OSError):
        return [read_image(path).shape[:2]]
    return []


def _validation_images(run: Run) -> dict[str, Path]:
    found = {}
    for name, digest in run.split.validation.items():
        path = Path(run.config.data) / name
        with contextlib.suppress(ImageError):
            if content_hash(path) == digest:
                found[digest] = path
    return found
