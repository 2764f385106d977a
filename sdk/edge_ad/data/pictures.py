"""Decoding the images of a preparation: their masks, and which show the same picture."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_ad.data.coco import Id, raise_problems
from edge_ad.data.findings import Findings, some
from edge_ad.data.names import DistinctNames
from edge_ad.data.regions import Mask, annotation_region
from edge_ad.data.sources import Source
from edge_ad_runtime.errors import DataError, ImageError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.types import Image


@dataclass(frozen=True)
class Picture:
    """An image that goes into the data set: its file and its name there, its folder, its mask as a PNG file."""

    path: Path
    name: str
    kind: str
    mask: bytes | None


def read_pictures(
    annotations: Path, sources: Iterable[Source], folders: dict[Id, str], findings: Findings
) -> list[Picture]:
    """Decode every image, make the masks, and leave out pictures (the same pixels) that came before.

    Args:
        annotations: their file, to be named in errors.
        sources: the defective ones first, so that a picture annotated somewhere is not good elsewhere.
        folders: of the categories.
        findings: is added to.

    Raises:
        DataError: images are damaged, or their annotations contradict them; all are named.
    """
    names = DistinctNames()
    pictures: dict[str, Picture] = {}
    problems: list[str] = []
    for source in sources:
        try:
            pixels = read_image(source.path)
            kind, mask = _label(source, pixels, folders, findings)
        except (ImageError, DataError) as error:
            problems.append(str(error))
            continue
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        if digest in pictures:
            _tell_repeated(source, pictures[digest], findings)
            continue
        name = names.take(source.path.name)
        if name != source.path.name:
            findings.notes.append(f"{source.path} is named {name}, since its name is taken or too long")
        pictures[digest] = Picture(source.path, name, kind, mask)
    raise_problems(annotations, problems)
    return list(pictures.values())


def _label(
    source: Source, pixels: Image, folders: dict[Id, str], findings: Findings
) -> tuple[str, bytes | None]:
    """The folder and the mask of an image.

    Raises:
        DataError: its annotations are malformed or of another size.
    """
    height, width = pixels.shape[:2]
    entry = source.entry
    if entry is not None and not (entry.height in (None, height) and entry.width in (None, width)):
        sizes = f"{entry.width}x{entry.height} pixels in the annotations, but {width}x{height} in the file"
        if source.annotations:
            raise DataError(f"{source.path}: is {sizes} (turned as its EXIF orientation says)")
        findings.warnings.append(f"{source.path} is {sizes}; it has no annotations, so it counts as good")
    if not source.annotations:
        return "good", None
    areas: dict[str, Mask] = {}
    counts: Counter[str] = Counter()
    complete = True
    for annotation in source.annotations:
        where = f"{source.path}: annotation {annotation.id!r}"
        try:
            region = annotation_region(annotation, height, width)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        folder = folders[annotation.category_id]
        counts[folder] += 1
        area = areas.setdefault(folder, np.zeros((height, width), np.bool_))
        if region.mask is None:
            complete = False
            findings.warnings.append(f"{where} has no region inside the image, so the image gets no mask")
            continue
        area |= region.mask
        if region.source == "box":
            findings.notes.append(f"{where} has only a box, which is taken as its region")
        if region.outside:
            findings.warnings.append(f"{where} reaches out of the image and is cut at its edge")
    kind = max(areas, key=lambda folder: (int(areas[folder].sum()), counts[folder]))
    if len(areas) > 1:
        findings.notes.append(f"{source.path} has {some(sorted(areas))}; it is put to the largest, '{kind}'")
    if not complete:
        return kind, None
    mask = np.logical_or.reduce(list(areas.values())).astype(np.uint8) * 255
    return kind, cv2.imencode(".png", mask)[1].tobytes()


def _tell_repeated(source: Source, first: Picture, findings: Findings) -> None:
    findings.left_out += 1
    text = f"{source.path} shows the same picture as {first.path} and is left out"
    if first.kind == "good":
        findings.notes.append(text)
    elif source.annotations:
        findings.warnings.append(f"{text}; only the annotations of the first are used")
    else:
        findings.warnings.append(f"{text}: it counts as good, but the other is annotated as '{first.kind}'")
