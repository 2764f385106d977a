"""The conversion job, from a run to a bundle that the slim runtime opens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from edge_ad.cli import main
from edge_ad.conversion import ConvertOptions, choose_images, convert
from edge_ad.data import content_hash, read_dataset
from edge_ad.run_folder import open_run
from edge_ad.training.job import train
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.calibration import Mix
from edge_ad_runtime.errors import DataError
from edge_ad_runtime.inspector import open_inspector
from edge_ad_runtime.stopping import StopRequest
from tests.conftest import run_plan


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_bundle_opens_passes_its_golden_samples_and_reports(
    short_run: Path, parts: Path, tmp_path: Path, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "part.edgead"
    main_ok(
        ["convert", str(short_run), "-o", str(out), "--precision", precision, "--json",
         "--calibration-images", str(parts / "train" / "good")]
    )  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    bundle = open_bundle(out)
    assert bundle.manifest.precision == precision
    assert bundle.manifest.size == "n"
    assert bundle.report == report
    assert len(bundle.golden) == 3
    assert report["fusion_deviation"] < 1e-4
    assert report["measured_images"] == 6
    for side in ("float", "target"):
        assert 0 <= report[side]["image_auroc"] <= 1
        assert report["latency_ms"][side] > 0
    if precision == "fp32":
        assert report["score_correlation"] == pytest.approx(1)
        assert report["float"]["image_auroc"] == report["target"]["image_auroc"]
        assert not report["flipped_verdicts"]
    else:
        assert report["model_bytes"]["target"] < report["model_bytes"]["float"] / 3
    open_inspector(out, threads=1)


def main_ok(args: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert not stop.value.code


def test_quantiles_are_never_fitted_on_trained_or_test_images(
    short_run: Path, parts: Path, tmp_path: Path
) -> None:
    run = open_run(short_run)
    sets = choose_images(run, parts / "train" / "good", None, seed=0)
    trained = set(run.split.train.values())
    assert not {content_hash(p) for p in sets.fit} & trained
    assert {content_hash(p) for p in sets.fit} == set(run.split.validation.values())
    assert len(sets.ranges) == 14
    leaky = tmp_path / "leaky"
    shutil.copytree(parts / "train" / "good", leaky)
    shutil.copy(parts / "test" / "good" / "000.png", leaky / "from_test.png")
    kept = choose_images(run, leaky, read_dataset(parts), seed=0)
    assert not [p for p in kept.fit + kept.ranges if p.name == "from_test.png"]
    assert any("test images too" in w for w in kept.warnings)


def test_only_trained_images_fall_back_to_the_validation_ones_or_fail(
    short_run: Path, parts: Path, tmp_path: Path
) -> None:
    run = open_run(short_run)
    folder = tmp_path / "trained"
    folder.mkdir()
    for name in run.split.train:
        shutil.copy(parts / name, folder)
    sets = choose_images(run, folder, None, seed=0)
    assert {content_hash(p) for p in sets.fit} == set(run.split.validation.values())
    assert any("not trained on: quantiles" in w for w in sets.warnings)
    moved = msgspec.structs.replace(
        run, config=msgspec.structs.replace(run.config, data=str(tmp_path / "gone"))
    )
    with pytest.raises(DataError, match="quantiles fitted on trained images"):
        choose_images(moved, folder, None, seed=0)


def test_given_threshold_is_used_and_recorded(short_run: Path, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.edgead"
    run = open_run(short_run)
    convert(
        run,
        parts / "train" / "good",
        read_dataset(parts),
        out,
        ConvertOptions(precision="fp32", threshold=0.5),
    )
    calibration = open_bundle(out).calibration
    assert (calibration.threshold, calibration.method, calibration.false_reject_rate) == (0.5, "given", None)


def test_score_and_mix_are_the_runs_or_those_asked_for(
    parts: Path, random_teacher: Path, tmp_path: Path
) -> None:
    plan = run_plan(parts, random_teacher, 2, padded=True, score="topk:9", mix="auto")
    assert train(tmp_path / "run", plan, "cpu", StopRequest(), resume=False)
    run = open_run(tmp_path / "run")
    assert run.nets.map_size == (64, 64)
    images = parts / "train" / "good"
    convert(run, images, None, tmp_path / "a.edgead", ConvertOptions(precision="int8"))
    own = open_bundle(tmp_path / "a.edgead").calibration
    assert own.score == "topk:9" and own.mix != Mix()
    convert(
        run,
        images,
        None,
        tmp_path / "b.edgead",
        ConvertOptions(precision="fp32", score="mean", mix=Mix(1, 0)),
    )
    other = open_bundle(tmp_path / "b.edgead")
    assert (other.calibration.score, other.calibration.mix) == ("mean", Mix(1, 0))
    assert (other.manifest.map_height, other.manifest.map_width) == (64, 64)
    open_inspector(tmp_path / "b.edgead", threads=1)


def test_unfinished_and_foreign_folders_are_refused(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(parts), "-o", str(tmp_path / "x.edgead")])
    assert stop.value.code == 1
    assert "is not a run" in capsys.readouterr().err
    assert not (tmp_path / "x.edgead").exists()


def test_unwritable_place_is_refused_before_the_work(
    short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for out in (blocked / "x.edgead", tmp_path):
        with pytest.raises(SystemExit) as stop:
            main(["convert", str(short_run), "-o", str(out)])
        assert stop.value.code == 1
        assert str(out.parent if out != tmp_path else out) in capsys.readouterr().err
