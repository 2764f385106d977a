"""Anomaly maps as files, read back by other readers than the writer."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.io

from edge_ad.data import TestImage as LabelledImage
from edge_ad.data import read_dataset
from edge_ad.evaluation.map_files import GreyScale, check_maps_folder, full_map, write_maps
from edge_ad.evaluation.scored import ScoredImage, score_images
from edge_ad.evaluation.scorer import Subject, open_subject
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.placement import place_map
from edge_ad_runtime.preprocess import PreprocessSpec, Roi
from tests.evaluation.conftest import HEIGHT, WIDTH, call

NAMES = sorted(
    [f"good/{i:03}" for i in range(5)] + [f"spot/{i:03}" for i in range(4)] + ["faint/000", "odd/000"]
)


@pytest.fixture(scope="module")
def subject(tiny_bundle: Path) -> Subject:
    return open_subject(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def images(subject: Subject, labelled_data: Path) -> list[ScoredImage]:
    return score_images(subject.scorer, read_dataset(labelled_data).test, subject.scorer.calibration)


def names(folder: Path, ending: str) -> list[str]:
    return sorted(
        p.relative_to(folder / "test").with_suffix("").as_posix() for p in folder.rglob(f"*.{ending}")
    )


def test_tiff_has_the_names_and_values_of_mvtecs_script(
    tiny_bundle: Path, labelled_data: Path, subject: Subject, images: list[ScoredImage], tmp_path: Path
) -> None:
    done = call("evaluate", tiny_bundle, labelled_data, "--maps", tmp_path / "m", "--threads", "1")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "m" / labelled_data.name
    assert names(out, "tiff") == NAMES and str(out) in done.stdout
    for scored in images:
        path = out / "test" / scored.image.kind / f"{scored.image.path.stem}.tiff"
        expected = place_map(scored.anomaly_map, subject.preprocess, HEIGHT, WIDTH)
        # scikit-image reads with tifffile, as MVTec's script does.
        for read in (cv2.imread(str(path), cv2.IMREAD_UNCHANGED), skimage.io.imread(path)):
            assert read is not None and read.dtype == np.float32 and read.shape == (HEIGHT, WIDTH)
            assert np.array_equal(read, expected)
    again = call("evaluate", tiny_bundle, labelled_data, "--maps", tmp_path / "m", "--threads", "1")
    assert again.returncode == 1 and "not an empty folder" in again.stderr


def test_npy_is_the_same_array(subject: Subject, images: list[ScoredImage], tmp_path: Path) -> None:
    assert write_maps(tmp_path / "m", images, subject.preprocess, kind="npy") is None
    assert names(tmp_path / "m", "npy") == NAMES
    read = np.load(tmp_path / "m" / "test" / "odd" / "000.npy", allow_pickle=False)
    odd = next(s for s in images if s.image.kind == "odd")
    assert read.dtype == np.float32 and np.array_equal(read, full_map(odd, subject.preprocess))


@pytest.mark.parametrize(("kind", "tolerance"), [("png", 0.5), ("jpg", 12.0)])
def test_grey_pictures_share_one_stated_scale(
    kind: str, tolerance: float, tiny_bundle: Path, labelled_data: Path, subject: Subject,
    images: list[ScoredImage], tmp_path: Path,
) -> None:  # fmt: skip
    done = call(
        "evaluate", tiny_bundle, labelled_data, "--maps", tmp_path, "--map-format", kind, "--threads", "1"
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / labelled_data.name
    assert names(out, kind) == NAMES
    scale = GreyScale(**json.loads((out / "scale.json").read_text()))
    assert scale.black == min(float(s.anomaly_map.min()) for s in images)
    assert scale.white == max(float(s.anomaly_map.max()) for s in images)
    assert f"black {scale.black:.4f}, white {scale.white:.4f}" in done.stdout
    step = (scale.white - scale.black) / 255
    highest = 0
    for scored in images:
        path = out / "test" / scored.image.kind / f"{scored.image.path.stem}.{kind}"
        grey = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert grey is not None and grey.dtype == np.uint8 and grey.shape == (HEIGHT, WIDTH)
        values = scale.black + grey.astype(np.float64) * step
        assert np.abs(values - full_map(scored, subject.preprocess)).max() <= tolerance * step * 1.001
        highest = max(highest, int(grey.max()))
    assert highest > 240


def test_the_zero_border_is_in_the_file_and_not_in_the_score(tmp_path: Path) -> None:
    spec = PreprocessSpec(256, 256)
    cells = np.full((56, 56), 3, np.float32)
    image = ScoredImage(LabelledImage(Path("a/b.png"), "dent"), 300, 280, cells, 3.0, 0.1)
    write_maps(tmp_path / "m", [image], spec, border="zero")
    read = cv2.imread(str(tmp_path / "m" / "test" / "dent" / "b.tiff"), cv2.IMREAD_UNCHANGED)
    assert read is not None and read.shape == (300, 280)
    assert (read[:16] == 0).all() and (read[:, :15] == 0).all() and read[17:278, 16:260] == pytest.approx(3)
    scale = write_maps(tmp_path / "p", [image], spec, border="zero", kind="png")
    assert scale == GreyScale(0.0, 3.0)


def test_outside_the_region_the_lowest_value_stands(tmp_path: Path) -> None:
    spec = PreprocessSpec(32, 32, Roi(10, 20, 64, 32))
    maps = [np.full((8, 8), v, np.float32) for v in (0.5, -0.25)]
    images = [
        ScoredImage(LabelledImage(Path(f"{i}.png"), "good"), 60, 100, m, float(m.max()), 0.1)
        for i, m in enumerate(maps)
    ]
    write_maps(tmp_path / "m", images, spec)
    read = cv2.imread(str(tmp_path / "m" / "test" / "good" / "0.tiff"), cv2.IMREAD_UNCHANGED)
    assert read is not None and read.shape == (60, 100)
    assert (read[20:52, 10:74] == 0.5).all() and (read == 0.5).sum() == 32 * 64
    assert read[0, 0] == -0.25


def test_images_that_share_a_stem_keep_their_maps_apart(tmp_path: Path) -> None:
    cells = np.zeros((8, 8), np.float32)
    images = [
        ScoredImage(LabelledImage(Path(name), "good"), 32, 32, cells, 0.0, 0.1)
        for name in ("a.png", "a.jpg", "b.png")
    ]
    write_maps(tmp_path / "m", images, PreprocessSpec(32, 32), kind="png")
    assert sorted(p.name for p in (tmp_path / "m" / "test" / "good").iterdir()) == [
        "a.jpg.png",
        "a.png.png",
        "b.png",
    ]
    # One value only: no scale can tell values apart, and nothing divides by zero.
    assert read_image(tmp_path / "m" / "test" / "good" / "b.png").max() == 0


def test_a_folder_that_cannot_take_them_is_refused_before_the_work(tmp_path: Path) -> None:
    assert check_maps_folder(tmp_path, "bottle") == tmp_path / "bottle"
    (tmp_path / "cable").mkdir()
    assert check_maps_folder(tmp_path, "cable") == tmp_path / "cable"
    (tmp_path / "cable" / "x").write_text("")
    with pytest.raises(InputError, match="not an empty"):
        check_maps_folder(tmp_path, "cable")
    with pytest.raises(InputError, match="no name"):
        check_maps_folder(tmp_path, "")
    with pytest.raises(InputError, match="not a folder"):
        check_maps_folder(tmp_path / "cable" / "x", "cable")


def test_a_failure_leaves_no_maps(images: list[ScoredImage], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not fit"):
        write_maps(tmp_path / "m", images, PreprocessSpec(32, 32, Roi(0, 0, 5000, 10)))
    assert list(tmp_path.iterdir()) == []
