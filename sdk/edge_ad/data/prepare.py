"""Making a data set in the MVTec AD layout from COCO instance annotations and folders of good images."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np

from edge_ad.data.coco import read_coco
from edge_ad.data.findings import Findings, count
from edge_ad.data.pictures import Picture, read_pictures
from edge_ad.data.sources import category_folders, defect_annotations, listed_sources, unlisted_sources
from edge_ad.data.split import MIN_GOOD_IMAGES
from edge_ad_runtime.errors import DataError, InputError, MissingExtra
from edge_ad_runtime.files import folder_written_atomically

try:
    from tqdm import tqdm
except ImportError as error:
    raise MissingExtra("tqdm", "host", "preparing a data set") from error

RECORD_FILE = "prepared.json"


@dataclass(frozen=True)
class PrepareOptions:
    """What to make a data set of.

    ``annotations`` are COCO instances, ``labeled`` the folder of their images, ``unlabeled`` folders of good
    images (with their subfolders). ``train_ratio`` of the good images, above 0 and at most 1, are to train on.
    ``ignore`` names categories, by name or id, whose annotations mark no defect. With ``skip_missing`` listed
    images that are not there are left out; otherwise they are an error.
    """

    annotations: Path
    labeled: Path
    unlabeled: tuple[Path, ...] = ()
    train_ratio: float = 0.8
    seed: int = 42
    ignore: tuple[str, ...] = ()
    skip_missing: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.train_ratio <= 1:
            raise InputError(
                f"the share of good images to train on is {self.train_ratio}; it must be above 0 and at most 1"
            )


class Prepared(msgspec.Struct, frozen=True):
    """What was made: the images in each folder, the masks, and how many images were left out.

    ``notes`` say what was done about odd cases, ``warnings`` what may be wrong.
    """

    out: str
    train_good: int
    test_good: int
    defects: dict[str, int]
    masks: int
    left_out: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


class _Record(msgspec.Struct, frozen=True):
    """``prepared.json`` in the data set: what it was made of, where each image came from, what was odd."""

    annotations: str
    train_ratio: float
    seed: int
    images: dict[str, str]
    notes: list[str]
    warnings: list[str]


def prepare(out: Path, options: PrepareOptions, *, progress: bool = False) -> Prepared:
    """Write a data set in the MVTec AD layout to ``out``.

    - An image goes to ``test/<category>``; one with several categories to that of the largest area, once. Its
      mask holds all its defects, ``iscrowd`` or not.
    - Listed images without annotations, and all unlabelled ones, are good. ``train_ratio`` of them, drawn with
      the seed, go to ``train/good``, the others to ``test/good``.
    - An annotation with only a box gives the box. An image with an annotation that says nothing about pixels
      gets no mask, since one that leaves a defect out would be wrong.
    - No picture (the same pixels) goes in twice, and none that is annotated as defective counts as good.
    - No two images get the same name; ``prepared.json`` says where each came from.

    Raises:
        DataError: the annotations are not COCO or contradict the files, files are missing, a category cannot be
            told from good, ``out`` exists, or there are no images. Nothing is written then.
        OSError: ``out`` is not writable.
    """
    if os.path.lexists(out):
        raise DataError(f"{out}: exists already; choose another folder or remove it")
    findings = Findings()
    coco = read_coco(options.annotations)
    annotations = defect_annotations(options.annotations, coco, options.ignore, findings)
    used = {a.category_id for of_image in annotations.values() for a in of_image}
    folders = category_folders(options.annotations, coco.categories, used, findings)
    listed = listed_sources(
        options.annotations, options.labeled, coco.images, annotations, options.skip_missing, findings
    )
    unlisted = unlisted_sources(options.labeled, options.unlabeled, listed, findings)
    sources = sorted([*listed, *unlisted], key=lambda source: not source.annotations)
    if not sources:
        raise DataError(f"{options.annotations}: lists no images, and no unlabelled ones are given")
    bar = tqdm(sources, desc="images", unit="image", disable=not progress)
    pictures = read_pictures(options.annotations, bar, folders, findings)
    places = _places(pictures, options)
    train, test = (sum(p.parts[:2] == (side, "good") for p in places) for side in ("train", "test"))
    _warn_of_few(train, test, findings)
    _write(out, places, options, findings, progress)
    return Prepared(
        out=str(out),
        train_good=train,
        test_good=test,
        defects=dict(sorted(Counter(p.kind for p in pictures if p.kind != "good").items())),
        masks=sum(p.mask is not None for p in pictures),
        left_out=findings.left_out,
        notes=tuple(findings.notes),
        warnings=tuple(findings.warnings),
    )


def _places(pictures: Sequence[Picture], options: PrepareOptions) -> dict[PurePosixPath, Picture]:
    """Where each picture goes in the data set."""
    good = sorted((p for p in pictures if p.kind == "good"), key=lambda p: p.name)
    order = np.random.default_rng(options.seed).permutation(len(good))
    train = {good[i].name for i in order[: _train_count(len(good), options.train_ratio)]}
    return {PurePosixPath("train" if p.name in train else "test", p.kind, p.name): p for p in pictures}


def _train_count(good: int, ratio: float) -> int:
    """How many to train on: the ratio, rounded, but one at least on each side unless the ratio is 1."""
    if ratio == 1 or good < 2:
        return good
    return min(max(round(ratio * good), 1), good - 1)


def _write(
    out: Path,
    places: dict[PurePosixPath, Picture],
    options: PrepareOptions,
    findings: Findings,
    progress: bool,
) -> None:
    record = _Record(
        str(options.annotations.resolve()),
        options.train_ratio,
        options.seed,
        {str(place): str(picture.path.resolve()) for place, picture in sorted(places.items())},
        findings.notes,
        findings.warnings,
    )
    with folder_written_atomically(out) as folder:
        for place, picture in tqdm(places.items(), desc="copies", unit="image", disable=not progress):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture.path, folder / place)
            if picture.mask is not None:
                masks = folder / "ground_truth" / picture.kind
                masks.mkdir(parents=True, exist_ok=True)
                (masks / f"{place.stem}_mask.png").write_bytes(picture.mask)
        encoded = msgspec.json.format(msgspec.json.encode(record), indent=1)
        (folder / RECORD_FILE).write_bytes(encoded + b"\n")


def _warn_of_few(train: int, test: int, findings: Findings) -> None:
    if train < MIN_GOOD_IMAGES:
        findings.warnings.append(
            f"{count(train, 'good image')} to train on; at least {MIN_GOOD_IMAGES} are needed, 50 or more are "
            "better"
        )
    if not test:
        findings.warnings.append(
            "there is no good image to test on, so false rejects and AUROC cannot be measured"
        )
