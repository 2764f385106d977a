"""Small data sets, written by the tests in the published structure of each layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tests.conftest import good_part

HEIGHT, WIDTH = 24, 32


def write_image(path: Path, seed: int, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """A noise image, different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), good_part(seed, height, width))
    return path


def write_mask(path: Path, value: int = 255, at: tuple[int, int] = (2, 3)) -> Path:
    """A mask with a 4x4 square of the value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[at[0] : at[0] + 4, at[1] : at[1] + 4] = value
    assert cv2.imwrite(str(path), mask)
    return path


def write_mvtec(root: Path, good: int = 12) -> Path:
    """MVTec AD: ``train/good``, ``test/<kind>``, ``ground_truth/<kind>/<name>_mask.png``."""
    for i in range(good):
        write_image(root / "train" / "good" / f"{i:03d}.png", i)
    for i in range(2):
        write_image(root / "test" / "good" / f"{i:03d}.png", 100 + i)
        write_image(root / "test" / "scratch" / f"{i:03d}.png", 200 + i)
        write_mask(root / "ground_truth" / "scratch" / f"{i:03d}_mask.png")
    return root


DEFECTS_CONFIG = [
    {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 10, "relative_saturation": False},
    {"defect_name": "bent", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
]


def write_loco(root: Path) -> Path:
    """MVTec LOCO: validation/good, ``ground_truth/<kind>/<name>/000.png`` and on, ``defects_config.json``."""
    for i in range(12):
        write_image(root / "train" / "good" / f"{i:03d}.png", i)
    for i in range(6):
        write_image(root / "validation" / "good" / f"{i:03d}.png", 50 + i)
    for kind, first in (("good", 100), ("logical_anomalies", 200), ("structural_anomalies", 300)):
        for i in range(2):
            write_image(root / "test" / kind / f"{i:03d}.png", first + i)
    masks = root / "ground_truth"
    for i in range(2):
        write_mask(masks / "logical_anomalies" / f"{i:03d}" / "000.png", 255)
        write_mask(masks / "logical_anomalies" / f"{i:03d}" / "001.png", 254, at=(12, 20))
        write_mask(masks / "structural_anomalies" / f"{i:03d}" / "000.png", 254)
    (root / "defects_config.json").write_text(json.dumps(DEFECTS_CONFIG))
    return root


def write_visa(root: Path, category: str = "candle") -> Path:
    """VisA: ``Data/Images``, ``Data/Masks``, ``image_anno.csv``, and beside the category ``split_csv/1cls.csv``."""
    rows, labels = ["object,split,label,image,mask"], ["image,label,mask"]
    for i in range(14):
        name = f"{category}/Data/Images/Normal/{i:04d}.JPG"
        write_image(root / name, i)
        rows.append(f"{category},{'train' if i < 12 else 'test'},normal,{name},")
        labels.append(f"{name},normal,")
    for i, label in enumerate(("melt", '"melt,chip"', "other")):
        name = f"{category}/Data/Images/Anomaly/{i:03d}.JPG"
        mask = f"{category}/Data/Masks/Anomaly/{i:03d}.png"
        write_image(root / name, 100 + i)
        write_mask(root / mask, value=i + 1)
        rows.append(f"{category},test,anomaly,{name},{mask}")
        labels.append(f"{name},{label},{mask}")
    rows.append("capsules,train,normal,capsules/Data/Images/Normal/000.JPG,")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(rows) + "\n")
    (root / category / "image_anno.csv").write_text("\n".join(labels) + "\n")
    return root / category


def write_coco(path: Path, images: Sequence[str], annotations: Sequence[dict[str, Any]], **more: Any) -> Path:
    """COCO instances: image ids count from 1 in the order of the names; categories are scratch (1), dent (2)."""
    content: dict[str, Any] = {
        "info": {"year": 2026},
        "images": [
            {"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(images, 1)
        ],
        "annotations": [{"id": i, "iscrowd": 0, **a} for i, a in enumerate(annotations, 1)],
        "categories": [
            {"id": 1, "name": "scratch", "supercategory": "defect"},
            {"id": 2, "name": "dent", "supercategory": "defect"},
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | more))
    return path


def box_polygon(x: float, y: float, width: float, height: float) -> list[float]:
    """A rectangle's corners as a COCO polygon."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def rectangle(x: int, y: int, width: int, height: int) -> npt.NDArray[np.bool_]:
    """A rectangle as a mask of the tests' image size."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[y : y + height, x : x + width] = True
    return mask
