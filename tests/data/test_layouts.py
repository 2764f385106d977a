"""Data sets are read as they are published; the sets here are written by the tests in the published structure."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.data import Saturation, defect_mask, find_datasets, read_dataset, read_mask, read_mask_values
from edge_ad_runtime.errors import DataError, ImageError
from tests.data.sets import (
    DEFECTS_CONFIG,
    HEIGHT,
    WIDTH,
    rectangle,
    write_image,
    write_loco,
    write_mask,
    write_mvtec,
    write_visa,
)


def test_mvtec_ad(tmp_path: Path) -> None:
    dataset = read_dataset(write_mvtec(tmp_path))
    assert (dataset.layout, len(dataset.good), dataset.validation) == ("mvtec-ad", 12, ())
    assert [(i.kind, i.path.name, i.defect) for i in dataset.test] == [
        ("good", "000.png", False), ("good", "001.png", False),
        ("scratch", "000.png", True), ("scratch", "001.png", True),
    ]  # fmt: skip
    assert [i.mask and i.mask.name for i in dataset.test] == [None, None, "000_mask.png", "001_mask.png"]
    assert dataset.warnings == () and dataset.saturation == {}


def test_loco_has_a_validation_set_several_masks_and_saturations(tmp_path: Path) -> None:
    dataset = read_dataset(write_loco(tmp_path))
    assert (dataset.layout, len(dataset.good), len(dataset.validation)) == ("mvtec-loco", 12, 6)
    by_kind = {i.kind: i for i in dataset.test}
    assert set(by_kind) == {"good", "logical_anomalies", "structural_anomalies"}
    logical = by_kind["logical_anomalies"]
    assert [m.name for m in logical.masks] == ["000.png", "001.png"]
    values = [int(read_mask_values(m, HEIGHT, WIDTH).max()) for m in logical.masks]
    assert [dataset.saturation[v] for v in values] == [
        Saturation("missing", 10, False),
        Saturation("bent", 0.5, True),
    ]
    together = defect_mask(logical, HEIGHT, WIDTH)
    assert together is not None
    assert (together == rectangle(3, 2, 4, 4) | rectangle(20, 12, 4, 4)).all()
    assert defect_mask(by_kind["good"], HEIGHT, WIDTH) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_value": 0}, "1 to 255"),
        ({"saturation_threshold": 0}, "above 0"),
        ({"saturation_threshold": 1.5, "relative_saturation": True}, "at most 1"),
        ({"relative_saturation": None}, "not a configuration of MVTec LOCO"),
        ({"pixel_value": 254}, "twice"),
    ],
)
def test_a_wrong_defects_config_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    root = write_loco(tmp_path)
    config = [DEFECTS_CONFIG[0] | change, DEFECTS_CONFIG[1]]
    (root / "defects_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=message):
        read_dataset(root)


def test_visa_is_split_as_its_table_says(tmp_path: Path) -> None:
    root = write_visa(tmp_path)
    dataset = read_dataset(root)
    assert (dataset.layout, len(dataset.good)) == ("visa", 12)
    assert all(p.parent == root / "Data" / "Images" / "Normal" for p in dataset.good)
    assert [(i.kind, i.path.name) for i in dataset.test] == [
        ("combined", "001.JPG"), ("good", "0012.JPG"), ("good", "0013.JPG"), ("melt", "000.JPG"), ("other", "002.JPG"),
    ]  # fmt: skip
    # Its masks hold the numbers of defect types, which look black.
    mask = defect_mask(dataset.test[-1], HEIGHT, WIDTH)
    assert mask is not None and (mask == rectangle(3, 2, 4, 4)).all()


def test_visa_by_a_relative_path_and_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_visa(tmp_path)
    (root / "image_anno.csv").unlink()
    monkeypatch.chdir(root)
    dataset = read_dataset(Path())
    assert len(dataset.good) == 12 and all(not p.is_absolute() for p in dataset.good)
    assert {i.kind for i in dataset.test} == {"good", "anomaly"}
    assert [p.relative_to(dataset.root).parts[0] for p in dataset.good] == ["Data"] * 12


def test_visa_that_is_not_whole(tmp_path: Path) -> None:
    root = write_visa(tmp_path)
    table = tmp_path / "split_csv" / "1cls.csv"
    lines = table.read_text()
    (root / "Data" / "Images" / "Normal" / "0003.JPG").unlink()
    with pytest.raises(DataError, match=r"1 of 20 files are not there .*0003\.JPG"):
        read_dataset(root)
    table.write_text(lines.replace("candle/Data/Images/Normal/0003.JPG", "candle/../../secret.JPG"))
    with pytest.raises(DataError, match="is not a file of 'candle'"):
        read_dataset(root)
    table.write_text(lines.replace("object,", "objekt,"))
    with pytest.raises(DataError, match="lacks the columns object"):
        read_dataset(root)
    table.write_text(lines.replace("candle,test,anomaly", "candle,train,anomaly"))
    with pytest.raises(DataError, match="not a one-class split"):
        read_dataset(root)
    table.unlink()
    with pytest.raises(DataError, match=r"1cls\.csv is missing"):
        read_dataset(root)
    write_visa(tmp_path / "again")
    renamed = (tmp_path / "again" / "candle").rename(tmp_path / "again" / "candles")
    with pytest.raises(DataError, match="has no object 'candles'"):
        read_dataset(renamed)


def test_a_folder_with_only_test_images(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path, good=0)
    dataset = read_dataset(root)
    assert dataset.good == () and len(dataset.test) == 4 and dataset.layout == "mvtec-ad"


def test_a_plain_folder_and_a_folder_of_data_sets(tmp_path: Path) -> None:
    write_image(tmp_path / "plain" / "a.png", 0)
    dataset = read_dataset(tmp_path / "plain")
    assert (dataset.layout, len(dataset.good), dataset.test) == ("folder", 1, ())
    sets = tmp_path / "sets"
    write_mvtec(sets / "bottle")
    write_visa(sets)
    (sets / "notes").mkdir()
    assert find_datasets(sets) == [sets / "bottle", sets / "candle"]
    with pytest.raises(DataError, match="several data sets; give one of them: bottle, candle"):
        read_dataset(sets)
    with pytest.raises(DataError, match="holds no images"):
        read_dataset(sets / "notes")


def test_what_looks_wrong_is_said(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path)
    (root / "test" / "dent").mkdir()
    write_image(root / "test" / "loose.png", 7)
    write_image(root / "test" / "good" / "000.jpg", 8)
    warnings = "\n".join(read_dataset(root).warnings)
    assert f"{root / 'test' / 'dent'}: holds no images" in warnings
    assert "1 images lie directly in it" in warnings
    assert "000.jpg and 000.png differ only in their ending" in warnings


def test_two_images_do_not_share_a_mask(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path)
    write_image(root / "test" / "scratch" / "001.jpg", 8)
    with pytest.raises(DataError, match=r"001\.jpg and 001\.png would share the mask .*001_mask\.png"):
        read_dataset(root)


def test_a_mask_of_another_size_is_an_error(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "mask.png")
    assert (read_mask(path, HEIGHT, WIDTH) == rectangle(3, 2, 4, 4)).all()
    for height, width in ((WIDTH, HEIGHT), (2 * HEIGHT, 2 * WIDTH)):
        with pytest.raises(ImageError, match=f"{WIDTH}x{HEIGHT} pixels, its image {width}x{height}"):
            read_mask(path, height, width)


def test_a_broken_mask_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    _, encoded = cv2.imencode(".png", np.zeros((HEIGHT, WIDTH), np.uint8))
    path.write_bytes(encoded.tobytes()[: len(encoded) // 2])
    with pytest.raises(ImageError, match=r"mask\.png"):
        read_mask(path, HEIGHT, WIDTH)


def test_a_table_that_is_not_text_is_named(tmp_path: Path) -> None:
    root = write_visa(tmp_path)
    (tmp_path / "split_csv" / "1cls.csv").write_bytes(b"object,split\xff\xfe\n")
    with pytest.raises(DataError, match=r"1cls\.csv: cannot be read"):
        read_dataset(root)
