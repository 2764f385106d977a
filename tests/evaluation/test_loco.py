"""MVTec LOCO AD's figures on a small data set of its layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_ad.data import read_dataset
from edge_ad.evaluation.evaluate import evaluate
from edge_ad.evaluation.report import summary
from edge_ad_runtime.calibration import Calibration, Quantiles
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.errors import DataError
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.types import Image
from tests.evaluation.conftest import save

SIZE = 64
SPEC = PreprocessSpec(SIZE, SIZE)


class Brightness:
    """The map is the image's brightness, pixel by pixel."""

    calibration = Calibration(
        bundle="", quantiles=Quantiles(0, 0.1, 0, 0.1), threshold=0.5, method="given", false_reject_rate=None,
        images=1, created="", source="",
    )  # fmt: skip

    def raw_maps(self, image: Image) -> RawMaps:
        values = image.astype(np.float32).mean(2) / 255
        return RawMaps(values, values)


def part(bright: slice | None = None) -> np.ndarray:
    """Black with a grey corner of 64 pixels; ``bright`` rows of columns 32 to 47 are white."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:8, :8] = 100
    if bright is not None:
        image[bright, 32:48] = 255
    return image


def mask(value: int, rows: slice, columns: slice) -> np.ndarray:
    out = np.zeros((SIZE, SIZE), np.uint8)
    out[rows, columns] = value
    return out


@pytest.fixture
def loco(tmp_path: Path) -> Path:
    """Two good parts; a structural defect that is found whole, a logical one of which 64 of 512 pixels are."""
    save(tmp_path / "train" / "good" / "000.png", part())
    for i in range(2):
        save(tmp_path / "test" / "good" / f"{i:03}.png", part())
    save(tmp_path / "test" / "structural_anomalies" / "000.png", part(slice(20, 24)))
    save(
        tmp_path / "ground_truth" / "structural_anomalies" / "000" / "000.png",
        mask(1, slice(20, 24), slice(32, 48)),
    )
    save(tmp_path / "test" / "logical_anomalies" / "000.png", part(slice(20, 24)))
    save(
        tmp_path / "ground_truth" / "logical_anomalies" / "000" / "000.png",
        mask(2, slice(20, 52), slice(32, 48)),
    )
    config = [
        {"defect_name": "dent", "pixel_value": 1, "saturation_threshold": 1.0, "relative_saturation": True},
        {
            "defect_name": "missing",
            "pixel_value": 2,
            "saturation_threshold": 128,
            "relative_saturation": False,
        },
    ]
    (tmp_path / "defects_config.json").write_text(json.dumps(config))
    return tmp_path


def test_logical_and_structural_anomalies_apart(loco: Path) -> None:
    got = evaluate(Brightness(), SPEC, read_dataset(loco)).loco
    assert got is not None
    assert got.image_auroc == {"logical_anomalies": 1.0, "structural_anomalies": 1.0}
    # 64 white pixels are half of the 128 that suffice; the defect's other pixels are as black as clean ones.
    # 192 grey pixels of the three images (2 good, 1 logical) are FPR 192 / (3 * 4096 - 512) = 0.0163, before
    # which the overlap is 1/2. Behind them the black ones come at once, with the 64 pixels that are missing:
    # from there the overlap climbs straight to 1 at FPR 1.
    first = 192 / (3 * 4096 - 512)
    at_limit = 0.5 + 0.5 * (0.05 - first) / (1 - first)
    expected = (first * 0.5 + (0.05 - first) * (0.5 + at_limit) / 2) / 0.05
    assert got.spro["logical_anomalies"] == pytest.approx(expected)
    assert got.spro["structural_anomalies"] == pytest.approx(1.0)
    assert got.mean_spro == pytest.approx((1 + expected) / 2)
    assert got.mean_image_auroc == 1.0


def test_several_masks_are_several_defects(loco: Path) -> None:
    folder = loco / "ground_truth" / "structural_anomalies" / "000"
    save(folder / "000.png", mask(1, slice(20, 22), slice(32, 48)))
    save(folder / "001.png", mask(1, slice(50, 52), slice(0, 16)))
    got = evaluate(Brightness(), SPEC, read_dataset(loco))
    assert got.loco is not None
    # The first defect is found whole with 32 false positives beside it, the second is black: one of two
    # before the grey corners, with a false-positive rate of 32 / clean at first.
    clean = 3 * 4096 - 64
    beside, grey = 32 / clean, 192 / clean
    height = 0.5 + 0.5 * (0.05 - beside - grey) / (1 - beside - grey)
    climb = beside * 0.25 + grey * 0.5 + (0.05 - beside - grey) * (0.5 + height) / 2
    assert got.loco.spro["structural_anomalies"] == pytest.approx(climb / 0.05)


def test_the_text_and_json_show_them(loco: Path) -> None:
    got = evaluate(Brightness(), SPEC, read_dataset(loco))
    text = summary(got, "title")
    assert "sPRO to 0.05" in text and "mean of both" in text
    assert got.as_dict()["loco"]["spro"].keys() == {"logical_anomalies", "structural_anomalies"}


def test_without_saturation_thresholds_there_is_no_spro(loco: Path) -> None:
    (loco / "defects_config.json").unlink()
    got = evaluate(Brightness(), SPEC, read_dataset(loco)).loco
    assert got is not None and got.mean_image_auroc == 1.0
    assert got.spro == {"logical_anomalies": None, "structural_anomalies": None} and got.mean_spro is None


def test_one_kind_has_no_mean(loco: Path) -> None:
    (loco / "test" / "logical_anomalies" / "000.png").unlink()
    got = evaluate(Brightness(), SPEC, read_dataset(loco)).loco
    assert got is not None and list(got.spro) == ["structural_anomalies"]
    assert got.mean_image_auroc is None and got.mean_spro is None


def test_a_mask_of_an_unknown_defect_is_named(loco: Path) -> None:
    save(loco / "ground_truth" / "logical_anomalies" / "000" / "000.png", mask(9, slice(0, 4), slice(0, 4)))
    with pytest.raises(DataError, match=r"000\.png.*defects_config"):
        evaluate(Brightness(), SPEC, read_dataset(loco))
