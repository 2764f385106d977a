"""One category of VisA in its own layout.

The set holds a folder for each category, with ``Data/Images/Normal``, ``Data/Images/Anomaly``,
``Data/Masks/Anomaly`` and ``image_anno.csv`` (columns image, label, mask), and beside them
``split_csv/1cls.csv`` (columns object, split, label, image, mask), which says what to train and test on.
All paths in both files count from the set's folder. A mask's values are numbers of defect types.
Source: github.com/amazon-science/spot-diff, the data set's own repository.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edge_ad.data.model import Dataset, TestImage
from edge_ad.data.names import clean_name
from edge_ad_runtime.errors import DataError

SPLIT_FILE = Path("split_csv", "1cls.csv")
_SPLIT_COLUMNS = ("object", "split", "label", "image", "mask")
_LABEL_COLUMNS = ("image", "label", "mask")
_SEVERAL = "combined"


def is_visa(root: Path) -> bool:
    """Whether ``root`` looks like one category of VisA."""
    return (root / "Data" / "Images" / "Normal").is_dir()


def read_visa(root: Path) -> Dataset:
    """Read a category by the official one-class split.

    An image's kind is ``good``, or its label in ``image_anno.csv`` (``combined`` where it has several,
    ``anomaly`` where that file does not tell).

    Raises:
        DataError: the split is missing or of another form, does not know the category, or lists files that are
            not there.
    """
    # The path may be "." or a link; the files name the category.
    category = root.resolve().name
    split = root.resolve().parent / SPLIT_FILE
    if not split.is_file():
        raise DataError(
            f"{root}: is a category of VisA, but {split} is missing, which says what to train and to test on; "
            "take it from VisA's download or its repository (amazon-science/spot-diff)"
        )
    rows = [row for row in _rows(split, _SPLIT_COLUMNS) if row["object"] == category]
    if not rows:
        raise DataError(f"{split}: has no object '{category}'; name the folder as it is named there")
    labels = _labels(root, category)
    good, test = [], []
    for row in rows:
        path = _inside(root, category, row["image"], split)
        if row["split"] not in ("train", "test") or row["label"] not in ("normal", "anomaly"):
            raise DataError(f"{split}: {row['image']} has the split '{row['split']}', label '{row['label']}'")
        if row["split"] == "test":
            normal = row["label"] == "normal"
            mask = row["mask"]
            masks = () if normal or not mask else (_inside(root, category, mask, split),)
            kind = "good" if normal else labels.get(row["image"], "anomaly")
            test.append(TestImage(path, kind, masks))
        elif row["label"] == "normal":
            good.append(path)
        else:
            raise DataError(
                f"{split}: {row['image']} is an anomaly to train on; this is not a one-class split"
            )
    files = [*good, *(p for i in test for p in (i.path, *i.masks))]
    if missing := [p for p in files if not p.is_file()]:
        raise DataError(f"{split}: {len(missing)} of {len(files)} files are not there ({missing[0]}, …)")
    test.sort(key=lambda image: (image.kind, image.path))
    return Dataset(root, tuple(sorted(good)), tuple(test), layout="visa")


def _labels(root: Path, category: str) -> dict[str, str]:
    path = root / "image_anno.csv"
    if not path.is_file():
        return {}
    labels = {}
    for row in _rows(path, _LABEL_COLUMNS):
        names = {clean_name(name) for name in row["label"].split(",")} - {"", "good", "normal"}
        if names:
            labels[row["image"]] = _SEVERAL if len(names) > 1 else names.pop()
    return labels


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := set(columns) - set(reader.fieldnames or ()):
                raise DataError(f"{path}: lacks the columns {', '.join(sorted(missing))}")
            for row in reader:
                yield {column: (row[column] or "").strip() for column in columns}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _inside(root: Path, category: str, name: str, listed: Path) -> Path:
    parts = PurePosixPath(name).parts
    if len(parts) < 2 or parts[0] != category or ".." in parts:
        raise DataError(f"{listed}: '{name}' is not a file of '{category}'")
    return root.joinpath(*parts[1:])
