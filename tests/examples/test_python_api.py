"""The Python functions, by the example that shows them and beyond it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from examples import python_api

from edge_ad.api import TrainOptions, evaluate, load, train
from edge_ad_runtime.errors import DataError, ImageError, InputError, RunError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.stopping import StopRequest
from tests.conftest import good_part, write_parts


def test_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_parts(tmp_path / "data", good=24)
    python_api.main(data, tmp_path / "out", 2)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("image AUROC 0.") or printed[0] == "image AUROC 1.0000"
    assert printed[1].endswith("part.edgead")
    predictions = [line for line in printed[2:] if " row, column " in line]
    assert len(predictions) == 6
    assert load(tmp_path / "out" / "part.edgead").calibration.bundle


def test_predictions_of_arrays_paths_and_folders_agree(short_run: Path, parts: Path) -> None:
    model = load(short_run)
    folder = parts / "test" / "square"
    by_folder = list(model.predict(folder))
    assert [Path(p.name).name for p in by_folder] == ["000.png", "001.png", "002.png"]
    by_path = list(model.predict(str(folder / "000.png")))
    by_array = list(model.predict(read_image(folder / "000.png")))
    several = list(model.predict([folder / "000.png", read_image(folder / "001.png")]))
    assert [p.score for p in several] == [p.score for p in by_folder[:2]]
    assert [p.name for p in several] == [str(folder / "000.png"), "1"]
    for one in (by_path[0], by_array[0]):
        assert one.score == by_folder[0].score
        assert np.array_equal(one.anomaly_map, by_folder[0].anomaly_map)
    assert by_folder[0].anomaly_map.shape == (64, 64)
    assert by_folder[0].anomaly_map.dtype == np.float32
    scores = {
        Path(s.image.path).name: s.score for s in evaluate(model, parts).images if s.image.kind == "square"
    }
    assert scores == {Path(p.name).name: p.score for p in by_folder}


def test_a_bundle_predicts_too(tiny_bundle: Path) -> None:
    model = load(tiny_bundle, threads=1)
    good, bad = model.predict([good_part(3), np.full((48, 64, 3), 255, np.uint8)])
    assert good.verdict.value == "pass" and bad.verdict.value == "reject"
    assert good.anomaly_map.shape == (48, 64)


def test_wrong_sources(short_run: Path, tmp_path: Path) -> None:
    model = load(short_run)
    for array in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ImageError, match="no camera image"):
            list(model.predict(array))
    with pytest.raises(DataError, match="no images"):
        list(model.predict(tmp_path))
    with pytest.raises(ImageError):
        list(model.predict(tmp_path / "missing.png"))
    with pytest.raises(InputError, match="no such run"):
        load(tmp_path / "nothing")


def test_a_stopped_training_says_so(tmp_path: Path, parts: Path, random_teacher: Path) -> None:
    stop = StopRequest()
    stop.request()
    options = TrainOptions(teacher=random_teacher, steps=2)
    with pytest.raises(RunError, match="resume=True"):
        train(parts, tmp_path / "run", options, device="cpu", stop=stop)
    assert train(parts, tmp_path / "run", options, device="cpu", resume=True).calibration.images == 5


def test_oddities_are_warned_of_and_names_are_teachers(tmp_path: Path, parts: Path) -> None:
    options = TrainOptions(teacher="n", steps=1, penalty="none")
    with pytest.warns(UserWarning, match="without penalty images"):
        model = train(parts, tmp_path / "run", options, device="cpu")
    assert model.calibration.background is not None
    with pytest.raises(RunError, match="nosuch"):
        train(parts, tmp_path / "other", TrainOptions(teacher="nosuch"), device="cpu")
