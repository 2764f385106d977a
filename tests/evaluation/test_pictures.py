"""The pictures are there, can be read, and show the defect where it is."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from edge_ad.data import TestImage as LabelledImage
from edge_ad.data import read_dataset
from edge_ad.evaluation.charts import histogram, roc_picture
from edge_ad.evaluation.evaluate import Evaluation, evaluate, measure
from edge_ad.evaluation.pictures import (
    PANEL_SIDE,
    contact_sheet,
    look_first_sheet,
    look_of,
    overlay,
    write_pictures,
)
from edge_ad.evaluation.scorer import Subject, open_subject
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.heat import colour_level
from edge_ad_runtime.images import list_images, read_image
from tests.evaluation.conftest import HEIGHT, SPOT, WIDTH, call


@pytest.fixture(scope="module")
def subject(tiny_bundle: Path) -> Subject:
    return open_subject(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def result(subject: Subject, labelled_data: Path) -> Evaluation:
    return evaluate(subject.scorer, subject.preprocess, read_dataset(labelled_data))


def test_the_hot_spot_is_the_defect(subject: Subject, result: Evaluation) -> None:
    scored = next(s for s in result.images if s.image.kind == "spot")
    picture = overlay(scored, subject.preprocess, look_of(result))
    scale = PANEL_SIDE / WIDTH
    top = picture.shape[0] - round(HEIGHT * scale)
    heat = picture[top:, PANEL_SIDE + 6 : 2 * PANEL_SIDE + 6].astype(int)
    # Inferno is yellow at its top, while grey and the white outline have no hue and cyan has no red.
    warm = heat[..., 0] - heat[..., 2] > 40
    rows, columns = (slice(int(s.start * scale), int(s.stop * scale)) for s in SPOT)
    assert warm[rows, columns].mean() > 0.9
    # Beyond the spot the map slopes down over one cell, 16x12 pixels of the image.
    around = warm.copy()
    around[rows.start - 36 : rows.stop + 36, columns.start - 48 : columns.stop + 48] = False
    assert not around.any()
    centre = np.argwhere(warm).mean(0)
    assert centre == pytest.approx([(s.start + s.stop - 1) / 2 for s in (rows, columns)], abs=3)
    photo = picture[top:, :PANEL_SIDE]
    assert photo[rows, columns][20:-20, 20:-20].min() == 200


def test_colours_mean_the_same_in_all_pictures() -> None:
    values = np.array([-3, 0, 0.25, 0.5, 5, 5000], np.float32)
    level = colour_level(values, 0.5)
    assert level[:2].tolist() == [0, 0]
    assert level[3] == 0.5
    assert (np.diff(level[1:]) > 0).all() and level.max() <= 1
    by_hand = colour_level(np.array([-9, -2, 9], np.float32), -2.0)
    assert by_hand.tolist() == [0, 0.5, 1]


def test_the_folder_is_complete(tiny_bundle: Path, labelled_data: Path, tmp_path: Path) -> None:
    done = call("evaluate", tiny_bundle, labelled_data, "-o", tmp_path / "out", "--threads", "1")
    assert done.returncode == 0, done.stderr
    overlays = sorted((tmp_path / "out" / "overlays").rglob("*.png"))
    assert [p.relative_to(tmp_path / "out" / "overlays").as_posix() for p in overlays] == sorted(
        p.relative_to(labelled_data / "test").as_posix() for p in (labelled_data / "test").rglob("*.png")
    )
    for path in [*overlays, *list_images(tmp_path / "out")]:
        assert read_image(path).std() > 5, path
    assert {p.name for p in list_images(tmp_path / "out")} == {
        "histogram.png", "roc.png", "mistakes.png", "look_first.png",
    }  # fmt: skip
    assert len(json.loads((tmp_path / "out" / "evaluation.json").read_text())["images"]) == 11
    again = call("evaluate", tiny_bundle, labelled_data, "-o", tmp_path / "out")
    assert again.returncode == 1 and "not an empty folder" in again.stderr


def test_a_failure_leaves_no_folder(
    subject: Subject, result: Evaluation, tmp_path: Path, labelled_data: Path
) -> None:
    images = list(result.images)
    last = images[-1]
    gone = LabelledImage(tmp_path / "gone.png", last.image.kind)
    images[-1] = dataclasses.replace(last, image=gone)
    with pytest.raises(InputError, match=r"gone\.png"):
        broken = measure(images, subject.preprocess, subject.scorer.calibration)
        write_pictures(tmp_path / "out", broken, subject.preprocess)
    assert list(tmp_path.iterdir()) == []


def test_the_sheet_shows_mistakes_or_the_closest(subject: Subject, result: Evaluation) -> None:
    scored = next(s for s in result.images if s.mistaken)
    one = overlay(scored, subject.preprocess, look_of(result))
    sheet = contact_sheet(result, subject.preprocess)
    # One mistake, one picture, with six pixels around it and a title above.
    assert np.array_equal(sheet[-6 - one.shape[0] : -6, 6 : 6 + one.shape[1]], one)
    assert sheet.shape[1] == one.shape[1] + 12
    right = [s for s in result.images if not s.mistaken]
    calm = contact_sheet(measure(right, subject.preprocess, subject.scorer.calibration), subject.preprocess)
    assert calm.shape[0] > math.ceil(len(right) / 2) * one.shape[0]


def test_one_class_has_a_histogram_but_no_roc(subject: Subject, result: Evaluation) -> None:
    good = [s for s in result.images if not s.image.defect]
    only_good = measure(good, subject.preprocess, subject.scorer.calibration)
    assert roc_picture(only_good) is None
    assert histogram(only_good).std() > 5
    assert histogram(measure(good[:1], subject.preprocess, subject.scorer.calibration)).std() > 5


def test_look_first_shows_high_good_ones_beside_low_defects(subject: Subject, result: Evaluation) -> None:
    good, defects = result.look_first()
    assert [s.score for s in good] == sorted((s.score for s in good), reverse=True) and len(good) == 5
    # "faint" is a good part in truth: the first defect that a person should look at.
    assert defects[0].image.kind == "faint" and len(defects) == 6
    assert [s.image.path for s in result.look_first(2)[0]] == [s.image.path for s in good[:2]]
    sheet = look_first_sheet(result, subject.preprocess, 3)
    assert sheet is not None
    look = look_of(result)
    for column, shown in ((0, good), (1, defects)):
        for row in range(3):
            one = overlay(shown[row], subject.preprocess, look, 256)
            height, width = one.shape[:2]
            y, x = 34 + 6 + row * (height + 12), 6 + column * (width + 12)
            assert np.array_equal(sheet[y : y + height, x : x + width], one)
    only_good = [s for s in result.images if not s.image.defect]
    assert (
        look_first_sheet(
            measure(only_good, subject.preprocess, subject.scorer.calibration), subject.preprocess
        )
        is None
    )


def test_scores_without_a_threshold_are_drawn_too(
    subject: Subject, labelled_data: Path, tmp_path: Path
) -> None:
    mean = evaluate(subject.scorer, subject.preprocess, read_dataset(labelled_data), score="mean")
    look = look_of(mean)
    # The colours' middle is the good images' median peak: the defects' peaks lie above, no line is drawn.
    peaks = sorted(float(s.anomaly_map.max()) for s in mean.images if not s.image.defect)
    assert (look.level, look.threshold, look.contour) == (peaks[2], None, False)
    write_pictures(tmp_path / "out", mean, subject.preprocess)
    names = {p.name for p in list_images(tmp_path / "out")}
    assert names == {"histogram.png", "roc.png", "look_first.png"}
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["outcome"] is None
    with pytest.raises(InputError, match="threshold"):
        contact_sheet(mean, subject.preprocess)
