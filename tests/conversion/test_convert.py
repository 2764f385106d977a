"""The conversion job, from a run to a bundle that the slim runtime opens."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from edge_ad.cli import main
from edge_ad.cli.convert import command
from edge_ad.cli.report import command as report_command
from edge_ad.conversion import DEVICES, ConvertOptions, choose_images, convert
from edge_ad.conversion.measure import MeasuredOn, Measurement, broken_limits, limits
from edge_ad.conversion.quantize import MAX_FLOAT_SHARE
from edge_ad.data import content_hash, read_dataset
from edge_ad.report.model import KindResult, Side
from edge_ad.run_folder import open_run
from edge_ad.training.job import train
from edge_ad_converters.graph import convolutions, layer_name
from edge_ad_converters.parity import Parity
from edge_ad_converters.targets import target_form
from edge_ad_runtime.bundle import Bundle, open_bundle
from edge_ad_runtime.calibration import Mix, Quantiles
from edge_ad_runtime.engines import PRECISIONS, TARGETS, Precision, Target, open_engine
from edge_ad_runtime.errors import DataError, InputError
from edge_ad_runtime.inspector import Inspector, open_inspector
from edge_ad_runtime.stopping import StopRequest
from tests.conftest import run_plan
from tests.conversion.conftest import convert_words
from tests.conversion.test_qdq import optimized_operators

CASES = [(target, precision) for target in TARGETS for precision in target_form(target).precisions]
# The rest takes minutes on a small machine.
DEFAULT = [("openvino", "int8"), ("tflite", "int8")]
QUANTILES = Quantiles(0.0, 1.0, 0.0, 1.0)


def exit_code(args: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code is None or isinstance(stop.value.code, int)
    return stop.value.code or 0


def check_report(bundle: Bundle, report: dict[str, Any]) -> None:
    """All that a report must say, in numbers that are possible."""
    assert bundle.report == report
    (kind,) = report["kinds"]
    assert (kind["kind"], kind["images"]) == ("square", 3)
    for name in ("float", "target"):
        # There is one kind of defect: its figure is that of all.
        assert kind[f"{name}_auroc"] == pytest.approx(report[name]["image_auroc"])
    assert report["fusion_deviation"] < 1e-4
    assert report["measured_images"] == 6
    for side in ("float", "target"):
        assert 0 <= report[side]["image_auroc"] <= 1
        assert report["latency_ms"][side] > 0
    assert report["target"]["precision"] == bundle.manifest.precision
    for name in ("score_correlation", "map_correlation", "worst_map_correlation", "good_map_correlation"):
        assert 0.85 < report[name] <= 1 + 1e-9
    assert isinstance(report["flipped_verdicts"], list)
    assert report["limits"]["passed"] and not report["limits"]["forced"] and not report["limits"]["broken"]
    assert set(bundle.documents) == {"report.html", "report.md"}
    assert all(bundle.documents.values())


def check_golden_samples(bundle: Bundle) -> None:
    assert len(bundle.golden) == 3
    if bundle.manifest.target == "tensorrt":
        engine = open_engine("ort", bundle.model, bundle.manifest.precision, 1)
        for sample in bundle.golden:
            for found, wanted in zip(engine.run(sample.image), (sample.map_st, sample.map_ae), strict=True):
                assert np.abs(found - wanted).max() <= bundle.manifest.golden_tolerance * wanted.max()
    else:
        assert Inspector(bundle, threads=1).self_test() <= bundle.manifest.golden_tolerance


def test_int8_bundle_opens_passes_its_golden_samples_and_reports(converted: tuple[Path, str]) -> None:
    path, printed = converted
    bundle = open_bundle(path)
    assert (bundle.manifest.target, bundle.manifest.precision, bundle.manifest.size) == ("ort", "int8", "n")
    check_report(bundle, json.loads(printed))
    check_golden_samples(bundle)
    report = bundle.report
    assert report["model_bytes"]["target"] < report["model_bytes"]["float"] / 3
    assert [p["precision"] for p in report["precisions"]] == ["fp32", "int8"]
    assert report["quantization"]["float_layers"] == []
    assert report["sets"] == {"ranges": 3, "fit": 5, "measurement": 6}
    assert sum("are few" in w for w in report["warnings"]) == 2
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("target", "precision"),
    [
        pytest.param(*case, marks=() if case in DEFAULT else pytest.mark.study)
        for case in CASES
        if case != ("ort", "int8")
    ],
)
def test_every_target_and_precision(
    quick: None, short_run: Path, few: Path, tmp_path: Path, target: Target, precision: Precision
) -> None:
    out = tmp_path / "part.edgead"
    device = {t: d for d, t in DEVICES.items()}.get(target)
    chosen = ["--target", target] if device is None else ["--for", device]
    words = convert_words(short_run, out, few, *chosen, "--precision", precision, "--json")
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    bundle = open_bundle(out)
    assert (bundle.manifest.target, bundle.manifest.precision) == (target, precision)
    report = bundle.report
    check_report(bundle, json.loads(done.stdout))
    check_golden_samples(bundle)
    assert (report["stand_in"] is not None) == (target == "tensorrt")
    assert (report["quantization"] is not None) == (precision == "int8")
    if precision == "fp32":
        assert report["score_correlation"] == pytest.approx(1)
        assert report["float"]["image_auroc"] == report["target"]["image_auroc"]
        assert not report["flipped_verdicts"]
    elif target != "tensorrt":
        # TensorRT builds its engine on the device, from float weights.
        share = {"int8": 1 / 3, "fp16": 0.6}[precision]
        assert report["model_bytes"]["target"] < share * report["model_bytes"]["float"]


@pytest.mark.parametrize("suffix", ["html", "md", "json"])
def test_the_report_comes_out_of_the_bundle(converted: tuple[Path, str], tmp_path: Path, suffix: str) -> None:
    bundle, out = open_bundle(converted[0]), tmp_path / f"part.{suffix}"
    done = CliRunner().invoke(report_command, [str(converted[0]), "-o", str(out)])
    assert done.exit_code == 0, done.output
    if suffix == "json":
        assert json.loads(out.read_text()) == bundle.report
    else:
        assert out.read_bytes() == bundle.documents[f"report.{suffix}"]
        # The figures of this conversion, not a page of none.
        assert f"{bundle.report['good_map_correlation']:.4f}"[:5] in out.read_text()


# The gate


def test_a_broken_limit_leaves_no_bundle_unless_forced(
    quick: None, short_run: Path, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half precision is never exactly the float model."""
    out = tmp_path / "part.edgead"
    words = convert_words(
        short_run, out, few, "--for", "x86", "--precision", "fp16", "--min-map-correlation", "1"
    )
    assert exit_code(["convert", *words]) == 1
    said = capsys.readouterr().err
    assert "breaks a limit" in said and "below 1" in said and "--force" in said
    assert list(tmp_path.iterdir()) == []
    assert exit_code(["convert", *words, "--force"]) == 0
    assert "LIMIT BROKEN: the map correlation of good images" in capsys.readouterr().out
    bundle = open_bundle(out)
    assert (bundle.manifest.target, bundle.manifest.precision) == ("openvino", "fp16")
    found = bundle.report["limits"]
    assert found["forced"] and not found["passed"] and len(found["broken"]) == 1
    assert found["min_map_correlation"] == 1
    for page in bundle.documents.values():
        assert b"the map correlation of good images is" in page
    check_golden_samples(bundle)


@pytest.mark.study
def test_an_int8_model_that_nothing_mends_is_refused(
    quick: None, short_run: Path, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = convert_words(short_run, tmp_path / "part.edgead", few, "--min-map-correlation", "1")
    assert exit_code(["convert", *words]) == 1
    assert "the int8 model breaks a limit" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.study
def test_few_layers_in_float_mend_a_broken_limit(
    quick: None,
    converted: tuple[Path, str],
    short_run: Path,
    few: Path,
    tmp_path: Path,
) -> None:
    before = json.loads(converted[1])["good_map_correlation"]
    limit = before + 0.25 * (1 - before)
    out = tmp_path / "part.edgead"
    done = CliRunner().invoke(
        command, convert_words(short_run, out, few, "--min-map-correlation", str(limit))
    )
    assert done.exit_code == 0, done.output
    bundle = open_bundle(out)
    report = bundle.report
    assert report["good_map_correlation"] >= limit > before
    assert report["limits"]["passed"] and not report["limits"]["forced"]
    layers = [f["layer"] for f in report["quantization"]["float_layers"]]
    # Said to be in float in the scan too, and within half of the arithmetic.
    order = report["sensitivity"]
    assert layers and {s["layer"] for s in order if s["left_float"]} == set(layers)
    assert sum(s["gmac_share"] for s in order if s["left_float"]) <= MAX_FLOAT_SHARE
    assert len(layers) < len(order)
    assert all(math.isfinite(f["cost_ms"]) for f in report["quantization"]["float_layers"])
    model = onnx.load_from_string(bundle.model)
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    in_float = [n for n in convolutions(model) if n.input[1] in constants]
    assert {layer_name(n) for n in in_float} == set(layers)
    assert all(constants[n.input[1]].dtype == np.float32 for n in in_float)
    operators = optimized_operators(model, tmp_path)
    assert operators["Conv"] + operators["FusedConv"] == len(layers)
    assert operators["QLinearConv"] == len(convolutions(model)) - len(layers)


def side(auroc: float | None, aupro: float | None) -> Side:
    return Side(
        engine="", precision="", calibrated_threshold=0.0, quantiles=QUANTILES, image_auroc=auroc, aupro=aupro
    )


@pytest.mark.parametrize(
    ("before", "after", "correlation", "broken"),
    [
        ((0.99, 0.9), (0.986, 0.896), 0.99, []),
        ((0.99, 0.9), (1.0, 0.95), 0.98, []),
        ((0.99, 0.9), (0.984, 0.9), 0.99, ["image AUROC drops from 0.9900 to 0.9840"]),
        ((0.99, 0.9), (0.99, 0.89), 0.99, ["AUPRO drops"]),
        ((0.99, 0.9), (0.9, 0.8), 0.9, ["image AUROC", "AUPRO", "map correlation of good images is 0.9000"]),
        ((0.99, None), (0.99, None), 0.99, []),
        ((0.99, 0.9), (float("nan"), 0.9), 0.99, ["image AUROC"]),
        ((0.99, 0.9), (None, 0.9), 0.99, ["image AUROC"]),
        ((None, None), (None, None), None, ["not defined"]),
        ((None, None), (None, None), float("nan"), ["below 0.98"]),
    ],
)
def test_limits(
    before: tuple[float | None, float | None],
    after: tuple[float | None, float | None],
    correlation: float | None,
    broken: list[str],
) -> None:
    on = MeasuredOn("", (Path("a.png"),), ("good",), None)
    parity = Parity((), 1.0, 1.0, 1.0)
    options = ConvertOptions()
    found = broken_limits(Measurement(on, side(*before), side(*after), parity, correlation, ()), options)
    assert len(found) == len(broken)
    for text, expected in zip(found, broken, strict=True):
        assert expected in text
    record = limits(found, options)
    assert record.passed == (not broken) and record.forced == bool(broken)


@pytest.mark.parametrize(
    ("images", "good", "before", "after", "broken"),
    [
        (20, 20, 1.0, 0.981, False),
        (20, 20, 1.0, 0.979, True),
        # One pair that changed places is all that a kind of few images is forgiven.
        (3, 10, 1.0, 29 / 30, False),
        (3, 10, 1.0, 28 / 30, True),
        (1, 4, 1.0, 0.75, False),
        (1, 4, 1.0, 0.5, True),
        # What float does not tell from good parts cannot be hidden.
        (20, 20, 0.45, 0.2, False),
        (20, 20, 0.51, 0.1, False),
        (20, 20, 0.55, 0.1, True),
        (20, 20, 0.9, 1.0, False),
        (20, 20, 0.9, None, True),
        (20, 20, 0.9, float("nan"), True),
        (20, 20, None, None, False),
    ],
)
def test_a_kind_of_defect_must_not_hide_among_the_others(
    images: int, good: int, before: float | None, after: float | None, broken: bool
) -> None:
    kinds = (*["good"] * good, *["scratch"] * images)
    on = MeasuredOn("", (Path("a.png"),) * len(kinds), kinds, None)
    scratch = KindResult(kind="scratch", images=images, float_auroc=before, target_auroc=after)
    measurement = Measurement(
        on, side(0.99, 0.9), side(0.99, 0.9), Parity((), 1.0, 1.0, 1.0), 1.0, (), (scratch,)
    )
    found = broken_limits(measurement, ConvertOptions())
    assert len(found) == broken
    assert all("'scratch'" in text for text in found)
    if broken and after is not None and math.isfinite(after):
        assert not broken_limits(measurement, ConvertOptions(max_kind_drop=0.99))


# What was asked for


def test_a_device_chooses_the_target_and_only_one_may(
    short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "part.edgead"
    assert DEVICES == {"x86": "openvino", "raspberry-pi": "tflite", "jetson": "tensorrt"}
    words = ["convert", str(short_run), "-o", str(out)]
    assert exit_code([*words, "--for", "jetson", "--target", "tensorrt"]) == 2
    assert "--for chooses the target" in capsys.readouterr().err
    assert exit_code([*words, "--for", "raspberry-pi", "--precision", "fp16"]) == 1
    assert "the target 'tflite' has no arithmetic in fp16" in capsys.readouterr().err
    assert exit_code([*words, "--precision", "fp16"]) == 1
    assert "the target 'ort' has no arithmetic in fp16; choose fp32 or int8" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_options_are_checked() -> None:
    assert set(PRECISIONS) == {"fp32", "fp16", "int8"}
    for target in TARGETS:
        for precision in PRECISIONS:
            if (target, precision) in CASES:
                ConvertOptions(target=target, precision=precision)
            else:
                with pytest.raises(InputError, match="no arithmetic"):
                    ConvertOptions(target=target, precision=precision)
    for wrong in ({"compress": 0.0}, {"compress": 1.5}, {"compress": "much"}, {"compress": float("nan")}):
        with pytest.raises(InputError, match="is no share of the arithmetic"):
            ConvertOptions(**wrong)
    with pytest.raises(InputError, match="goes with --compress"):
        ConvertOptions(compress_steps=3)
    with pytest.raises(InputError, match="--max-kind-drop"):
        ConvertOptions(max_kind_drop=-0.1)
    with pytest.raises(InputError, match="none of min-max"):
        ConvertOptions(ranges="widest")  # type: ignore[arg-type]
    for wrong in ({"max_drop": 1.5}, {"max_drop": -0.1}, {"min_map_correlation": 2.0}):
        with pytest.raises(InputError, match="lies between"):
            ConvertOptions(**wrong)  # type: ignore[arg-type]


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


def test_given_threshold_is_used_and_recorded(
    quick: None, short_run: Path, parts: Path, tmp_path: Path
) -> None:
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
    quick: None, parts: Path, random_teacher: Path, tmp_path: Path
) -> None:
    plan = run_plan(parts, random_teacher, 2, padded=True, score="topk:9", mix="auto")
    assert train(tmp_path / "run", plan, "cpu", StopRequest(), resume=False)
    run = open_run(tmp_path / "run")
    assert run.nets.map_size == (64, 64)
    images = parts / "train" / "good"
    convert(run, images, None, tmp_path / "a.edgead", ConvertOptions(precision="fp32"))
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
