"""Which files and folders the annotations stand for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_ad.data.coco import CocoAnnotation, CocoCategory, CocoFile, CocoImage, Id, raise_problems
from edge_ad.data.findings import Findings, count, some
from edge_ad.data.names import clean_name
from edge_ad_runtime.errors import DataError
from edge_ad_runtime.images import is_image_path


@dataclass(frozen=True)
class Source:
    """An image file; ``entry`` is its line in the annotations, None where it is not listed there."""

    path: Path
    entry: CocoImage | None = None
    annotations: tuple[CocoAnnotation, ...] = ()


def defect_annotations(
    path: Path, coco: CocoFile, ignore: Sequence[str], findings: Findings
) -> dict[Id, tuple[CocoAnnotation, ...]]:
    """The annotations of each image, by its id, without those of ignored categories (named by name or id).

    Raises:
        DataError: an ignored category is not listed.
    """
    ignored: set[Id] = set()
    for name in ignore:
        found = {c.id for c in coco.categories if name in (c.name, str(c.id))}
        if not found:
            known = ", ".join(f"'{c.name}' ({c.id})" for c in coco.categories)
            raise DataError(f"{path}: has no category '{name}'; it has {known or 'none'}")
        ignored |= found
    kept: dict[Id, list[CocoAnnotation]] = defaultdict(list)
    for annotation in coco.annotations:
        if annotation.category_id not in ignored:
            kept[annotation.image_id].append(annotation)
    if freed := {a.image_id for a in coco.annotations} - kept.keys():
        findings.notes.append(f"{count(len(freed), 'image')} with only ignored annotations count as good")
    if empty := [c.name for c in coco.categories if c.id not in {a.category_id for a in coco.annotations}]:
        findings.warnings.append(f"{count(len(empty), 'category')} without annotations: {some(empty)}")
    return {image: tuple(annotations) for image, annotations in kept.items()}


def category_folders(
    path: Path, categories: Sequence[CocoCategory], used: set[Id], findings: Findings
) -> dict[Id, str]:
    """A folder name for each used category: safe, distinct (small and capital letters alike), and not ``good``.

    Raises:
        DataError: a category would be called ``good``.
    """
    folders: dict[Id, str] = {}
    by_name: dict[str, str] = {}
    for category in (c for c in categories if c.id in used):
        if category.name in by_name:
            folders[category.id] = by_name[category.name]
            findings.notes.append(f"several categories are named '{category.name}'; they share a folder")
            continue
        clean = clean_name(category.name) or f"category_{category.id}"
        if clean.casefold() == "good":
            raise DataError(
                f"{path}: the category '{category.name}' has annotations, but 'good' is the folder of good "
                f"images. If it marks no defect, ignore it (--ignore-category '{category.name}'); if it does, "
                "rename it"
            )
        taken = {folder.casefold() for folder in by_name.values()}
        folder, number = clean, 1
        while folder.casefold() in taken:
            number += 1
            folder = f"{clean}_{number}"
        if folder != category.name:
            findings.notes.append(f"the category '{category.name}' is the folder '{folder}'")
        folders[category.id] = by_name[category.name] = folder
    return folders


def listed_sources(
    path: Path,
    folder: Path,
    images: Sequence[CocoImage],
    annotations: dict[Id, tuple[CocoAnnotation, ...]],
    skip_missing: bool,
    findings: Findings,
) -> list[Source]:
    """The files of the images that the annotations ``path`` list, in ``folder``.

    Raises:
        DataError: there is no such folder, a file is missing (unless ``skip_missing``), listed twice, not an
            image, or outside the folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    problems: list[str] = []
    missing: list[str] = []
    found: dict[Path, Source] = {}
    for image in images:
        file = _find(folder, image.file_name)
        if file is None:
            problems.append(f"the file name '{image.file_name}' leads out of the folder of images")
        elif not is_image_path(file):
            problems.append(f"'{image.file_name}' is not named like an image that can be read")
        elif not file.is_file():
            missing.append(image.file_name)
        elif before := found.get(file.resolve()):
            problems.append(f"'{image.file_name}' and '{before.path.name}' are the same file, listed twice")
        else:
            found[file.resolve()] = Source(file, image, annotations.get(image.id, ()))
    if missing and skip_missing:
        findings.left_out += len(missing)
        findings.warnings.append(f"{count(len(missing), 'listed image')} not found: {some(missing)}")
    elif missing:
        problems.append(
            f"{count(len(missing), 'listed image')} not found in {folder}: {some(missing)}. Give the right "
            "folder, or leave them out (--skip-missing)"
        )
    raise_problems(path, problems)
    return list(found.values())


def unlisted_sources(
    folder: Path, unlabeled: Sequence[Path], listed: Sequence[Source], findings: Findings
) -> list[Source]:
    """The good images of the unlabelled folders; warns of images in ``folder`` that nothing tells about.

    Raises:
        DataError: an unlabelled folder is missing or holds no images.
    """
    known = {source.path.resolve() for source in listed}
    found: dict[Path, Source] = {}
    for good in unlabeled:
        if not good.is_dir():
            raise DataError(f"{good}: there is no such folder")
        images = list(_images_below(good))
        if not images:
            raise DataError(f"{good}: holds no images (PNG, JPEG, BMP, TIFF or WebP)")
        for path in images:
            if path.resolve() not in known:
                found.setdefault(path.resolve(), Source(path))
    strangers = [p.name for p in _images_below(folder) if p.resolve() not in known | found.keys()]
    if strangers:
        findings.left_out += len(strangers)
        findings.warnings.append(
            f"{count(len(strangers), 'image')} in {folder} not in the annotations and left out: "
            f"{some(strangers)}. If they are good, give their folder as --unlabeled too"
        )
    return list(found.values())


def _find(folder: Path, name: str) -> Path | None:
    """Where a listed image lies: at its path in ``folder``, else under its bare name there; None if outside.

    Annotation tools differ in whether folders belong to the name.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or not parts.name or "\0" in name:
        return None
    path = folder / parts
    return path if path.is_file() else folder / parts.name


def _images_below(folder: Path) -> Iterator[Path]:
    """The images in ``folder`` and its subfolders, sorted by path; hidden folders are passed over."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and is_image_path(path) and path.is_file():
            yield path
