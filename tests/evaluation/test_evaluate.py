"""``edge-ad evaluate`` from files to figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.data import read_dataset
from edge_ad.evaluation.evaluate import Evaluation, evaluate
from edge_ad.evaluation.report import summary
from edge_ad.evaluation.scorer import open_subject
from edge_ad_runtime.calibration import Calibration, Mix, Quantiles
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.errors import BundleError, DataError, ImageError, InputError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.inspector import open_inspector
from edge_ad_runtime.preprocess import PreprocessSpec, Roi, preprocess
from edge_ad_runtime.types import Image
from edge_ad_runtime.verdict import Verdict
from tests.evaluation.conftest import call, run, write_data


@pytest.fixture(scope="module")
def result(tiny_bundle: Path, labelled_data: Path) -> Evaluation:
    subject = open_subject(tiny_bundle, threads=1)
    return evaluate(subject.scorer, subject.preprocess, read_dataset(labelled_data))


def test_the_figures_are_those_of_the_data(result: Evaluation) -> None:
    good = [s.score for s in result.images if not s.image.defect]
    faint = next(s.score for s in result.images if s.image.kind == "faint")
    # Five defects far above every good part; "faint" is a good part in truth and lies among them.
    beaten = sum(faint > score for score in good)
    assert result.image_auroc == pytest.approx((5 * 5 + beaten) / 30)
    assert result.kind_auroc == {"faint": beaten / 5, "odd": 1.0, "spot": 1.0}
    assert result.image_f1 is not None and result.image_f1 >= 2 * 5 / 11
    c = result.calibrated
    assert (c.good, c.defects, c.false_rejects, c.escapes) == (5, 6, 0, 1)
    assert [s.image.kind for s in result.images if s.mistaken] == ["faint"]
    assert result.pixel_auroc is not None and result.pixel_auroc > 0.98
    assert result.aupro is not None and result.aupro > 0.95
    assert result.absent == {}
    assert len(result.notes) == 1 and "2 defective" in result.notes[0]
    assert 0 < result.seconds_per_image < 1


def test_scores_and_verdicts_are_those_of_the_line(result: Evaluation, tiny_bundle: Path) -> None:
    inspector = open_inspector(tiny_bundle, threads=1)
    for scored in result.images:
        inspection = inspector.inspect(read_image(scored.image.path))
        assert (scored.score, scored.verdict) == (inspection.score, inspection.verdict)


def test_the_command_prints_json(tiny_bundle: Path, labelled_data: Path, result: Evaluation) -> None:
    done = run("evaluate", tiny_bundle, labelled_data, "--json", "--threads", "1")
    assert done.returncode == 0, done.stderr
    got: dict[str, Any] = json.loads(done.stdout)
    for name in ("image_auroc", "image_ap", "image_f1", "threshold", "pixel_auroc", "aupro"):
        assert got[name] == pytest.approx(getattr(result, name))
    outcome = got["outcome"]
    assert (outcome["threshold"], outcome["origin"]) == (result.calibrated.threshold, "calibrated")
    assert (got["good"], got["defects"], outcome["false_rejects"], outcome["escapes"]) == (5, 6, 0, 1)
    assert len(got["images"]) == 11
    assert {"path", "kind", "score", "verdict"} == set(got["images"][0])
    rejected = [i["score"] > outcome["threshold"] for i in got["images"]]
    assert rejected == [i["verdict"] == Verdict.REJECT.value for i in got["images"]]


def test_the_command_prints_a_table(tiny_bundle: Path, labelled_data: Path) -> None:
    done = call("evaluate", tiny_bundle, labelled_data, "--threads", "1")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "image AUROC" in text and "AUPRO" in text and "1 of 6 defects passed" in text


def test_an_unpacked_bundle_is_the_same(tiny_bundle: Path, tmp_path: Path, result: Evaluation) -> None:
    shutil.unpack_archive(tiny_bundle, tmp_path / "tiny", "zip")
    subject = open_subject(tmp_path / "tiny", threads=1)
    image = np.full((40, 50, 3), 90, np.uint8)
    packed = open_subject(tiny_bundle, threads=1)
    assert np.array_equal(subject.scorer.raw_maps(image).st, packed.scorer.raw_maps(image).st)


def test_a_run_is_evaluated_in_torch(short_run: Path, parts: Path) -> None:
    done = call("evaluate", short_run, parts, "--json")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert (got["good"], got["defects"]) == (3, 3)
    # A white square is so far from grey that even random features tell.
    assert got["image_auroc"] == 1.0
    assert got["pixel_auroc"] is None and "mask" in got["absent"]["pixel_auroc"]
    config = json.loads((short_run / "config.json").read_text())
    assert open_subject(short_run).preprocess.height == config["preprocess"]["height"]


def test_a_plain_folder_has_nothing_to_evaluate_on(
    tiny_bundle: Path, labelled_data: Path, tmp_path: Path
) -> None:
    done = call("evaluate", tiny_bundle, labelled_data / "train" / "good", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "no labelled test images" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_only_good_images_give_no_ranking(tiny_bundle: Path, labelled_data: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        shutil.copytree(labelled_data / part / "good", tmp_path / part / "good")
    subject = open_subject(tiny_bundle, threads=1)
    got = evaluate(subject.scorer, subject.preprocess, read_dataset(tmp_path))
    names = ("image_auroc", "image_ap", "image_f1", "threshold", "pixel_auroc", "aupro")
    assert all(getattr(got, name) is None for name in names)
    assert set(got.absent) == set(names)
    assert (got.calibrated.good, got.calibrated.false_rejects) == (5, 0)
    assert "no defective images" in summary(got, "title")


def test_without_masks_the_pixel_metrics_are_absent(
    tiny_bundle: Path, labelled_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(labelled_data, tmp_path / "d")
    shutil.rmtree(tmp_path / "d" / "ground_truth")
    subject = open_subject(tiny_bundle, threads=1)
    got = evaluate(subject.scorer, subject.preprocess, read_dataset(tmp_path / "d"))
    assert got.image_auroc is not None
    assert got.pixel_auroc is None and "mask" in got.absent["aupro"]


def test_a_broken_mask_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path)
    mask = data / "ground_truth" / "spot" / "001_mask.png"
    mask.write_bytes(mask.read_bytes()[:-30])
    subject = open_subject(tiny_bundle, threads=1)
    with pytest.raises(ImageError, match="001_mask"):
        evaluate(subject.scorer, subject.preprocess, read_dataset(data))


def test_a_map_that_is_not_finite_is_refused(tiny_bundle: Path, labelled_data: Path) -> None:
    inner = open_subject(tiny_bundle, threads=1)

    class Broken:
        @property
        def calibration(self) -> Calibration:
            return inner.scorer.calibration

        def raw_maps(self, image: Image) -> RawMaps:
            st, ae = inner.scorer.raw_maps(image)
            st[0, 0] = np.nan
            return RawMaps(st, ae)

    with pytest.raises(InputError, match="not finite"):
        evaluate(Broken(), inner.preprocess, read_dataset(labelled_data))


def test_what_is_neither_run_nor_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        open_subject(tmp_path / "absent")
    with pytest.raises(InputError, match="neither a run"):
        open_subject(tmp_path)
    (tmp_path / "x.edgead").write_bytes(b"not a zip")
    with pytest.raises(BundleError):
        open_subject(tmp_path / "x.edgead")


def test_no_test_images_is_an_error_of_the_data(tiny_bundle: Path, labelled_data: Path) -> None:
    subject = open_subject(tiny_bundle, threads=1)
    with pytest.raises(DataError):
        evaluate(subject.scorer, subject.preprocess, read_dataset(labelled_data / "train" / "good"))


def test_only_the_region_of_interest_counts_for_pixels(labelled_data: Path) -> None:
    """The map of a region must meet the mask's part in that region."""
    spec = PreprocessSpec(32, 32, Roi(64, 20, 64, 64))

    class Truth:
        """Sees the mask itself wherever the image is bright, in 8x8 tiles of the region."""

        calibration = Calibration(
            bundle="", quantiles=Quantiles(0, 1, 0, 1), threshold=0.05, method="given",
            false_reject_rate=None, images=1, created="", source="",
        )  # fmt: skip

        def raw_maps(self, image: Image) -> RawMaps:
            pixels = preprocess(image, spec)[0].astype(np.float32).mean(2)
            tiles = pixels.reshape(8, 4, 8, 4).mean((1, 3))
            bright = (tiles > 175).astype(np.float32)
            return RawMaps(bright, bright)

    got = evaluate(Truth(), spec, read_dataset(labelled_data))
    # The spot is whole tiles of the region, so only the bilinear slope at its edge can be wrong.
    assert got.pixel_auroc is not None and got.pixel_auroc > 0.999
    assert got.aupro is not None and got.aupro > 0.98


def figures(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    got: dict[str, Any] = json.loads(done.stdout)
    return got


def test_the_table_has_a_row_for_each_class(
    tiny_bundle: Path, labelled_data: Path, result: Evaluation
) -> None:
    c = result.calibrated
    assert [row.name for row in c.classes] == ["faint", "good", "odd", "spot"]
    assert (c.overall.images, c.overall.accuracy, c.overall.precision) == (11, 10 / 11, 1.0)
    assert c.overall.recall == pytest.approx(5 / 6) and c.f1 == pytest.approx(10 / 11)
    text = summary(result, "title")
    table = text[text.index("class  ") : text.index("look at these first")]
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}
    assert rows["class"] == ["accuracy", "precision", "recall", "images", "AUROC"]
    assert rows["good"] == ["1.0000", "-", "-", "5", "-"]
    assert rows["spot"] == ["1.0000", "1.0000", "1.0000", "4", "1.0000"]
    assert rows["faint"][:4] == ["0.0000", "-", "0.0000", "1"]
    assert rows["overall"] == ["0.9091", "1.0000", "0.8333", "11", f"{result.image_auroc:.4f}"]


def test_a_given_threshold_makes_the_table(tiny_bundle: Path, labelled_data: Path) -> None:
    done = call("evaluate", tiny_bundle, labelled_data, "--threshold", "-1000", "--json", "--threads", "1")
    outcome = figures(done)["outcome"]
    assert (outcome["threshold"], outcome["origin"]) == (-1000, "given")
    # Everything is rejected.
    assert (outcome["false_rejects"], outcome["escapes"]) == (5, 0)
    assert outcome["overall"]["accuracy"] == pytest.approx(6 / 11)
    assert outcome["f1"] == pytest.approx(12 / 17)


def test_the_best_f1_makes_the_table(tiny_bundle: Path, labelled_data: Path) -> None:
    done = call("evaluate", tiny_bundle, labelled_data, "--threshold", "best-f1", "--json", "--threads", "1")
    got = figures(done)
    assert got["outcome"]["threshold"] == got["threshold"] and got["outcome"]["origin"] == "best-f1"
    assert got["outcome"]["f1"] == pytest.approx(got["image_f1"])
    text = call("evaluate", tiny_bundle, labelled_data, "--threshold", "best-f1", "--threads", "1").stdout
    assert "chosen on these labels" in text


@pytest.mark.parametrize("text", ["nan", "inf", "best", "0,5", ""])
def test_a_threshold_that_is_none_is_wrong_usage(text: str, tiny_bundle: Path, labelled_data: Path) -> None:
    done = call("evaluate", tiny_bundle, labelled_data, "--threshold", text)
    assert done.returncode == 2 and "best-f1" in done.stderr


def test_the_best_f1_needs_both_classes(tiny_bundle: Path, labelled_data: Path, tmp_path: Path) -> None:
    shutil.copytree(labelled_data / "test" / "spot", tmp_path / "test" / "spot")
    subject = open_subject(tiny_bundle, threads=1)
    with pytest.raises(DataError, match="no good images"):
        evaluate(subject.scorer, subject.preprocess, read_dataset(tmp_path), threshold="best-f1")


def test_another_rule_or_mix_has_no_calibrated_threshold(tiny_bundle: Path, labelled_data: Path) -> None:
    subject = open_subject(tiny_bundle, threads=1)
    data = read_dataset(labelled_data)
    q = subject.scorer.calibration.quantiles
    got = evaluate(subject.scorer, subject.preprocess, data, score="topk:3", mix=Mix(1, 0))
    for scored in got.images:
        st, _ = subject.scorer.raw_maps(read_image(scored.image.path))
        expected = 0.1 * (st - q.qa_st) / (q.qb_st - q.qa_st)
        assert scored.score == pytest.approx(float(np.sort(expected.ravel())[-3:].mean()), rel=1e-4)
        assert scored.verdict is None and not scored.mistaken
    assert got.outcome is None and "another image score or mix" in got.absent["outcome"]
    assert got.image_auroc is not None and got.image_f1 is not None
    with pytest.raises(InputError, match="calibrated"):
        _ = got.calibrated
    given = evaluate(subject.scorer, subject.preprocess, data, score="mean", threshold=0.0)
    assert given.outcome is not None and given.outcome.origin == "given"
    # The model's own rule, said aloud, is no other rule.
    own = evaluate(subject.scorer, subject.preprocess, data, score="max", mix=Mix(0.5, 0.5))
    assert own.calibrated.threshold == subject.scorer.calibration.threshold


def test_rules_and_mixes_by_the_command(tiny_bundle: Path, labelled_data: Path) -> None:
    data: tuple[str | Path, ...] = (tiny_bundle, labelled_data, "--threads", "1")
    done = call("evaluate", *data, "--score", "mean", "--mix", "1:3")
    assert done.returncode == 0, done.stderr
    assert "image score mean, maps mixed 0.25:0.75" in done.stdout and "no verdicts" in done.stdout
    assert "passed" not in done.stdout
    for option, text in (("--score", "median"), ("--mix", "1"), ("--mix", "auto")):
        wrong = call("evaluate", *data, option, text)
        assert wrong.returncode == 2 and option in wrong.stderr


def test_suspicious_labels_are_listed(tiny_bundle: Path, labelled_data: Path, result: Evaluation) -> None:
    got = result.as_dict()["look_first"]
    assert [line["kind"] for line in got["good"]] == ["good"] * 5
    assert got["defects"][0]["kind"] == "faint" and len(got["defects"]) == 6
    text = summary(result, "title")
    lowest = text[text.index("defects with the lowest scores") :].splitlines()[1]
    assert lowest.split()[-1] == "faint/000.png"
