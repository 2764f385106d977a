"""The record keeps its names in the file, says None where nothing is defined, and refuses contradictions."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_ad.report.model import Limits, Report, as_dict, from_dict, image_name
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.verdict import Verdict
from tests.report.records import image, report, some_images, unlabelled_report


@pytest.mark.parametrize(
    "record", [report(), unlabelled_report(), report(quantization=None, sensitivity=(), stand_in="another")]
)
def test_what_is_written_is_read_back(record: Report) -> None:
    written = msgspec.json.encode(as_dict(record))
    assert from_dict(json.loads(written)) == record


def test_the_file_has_the_names_that_others_rely_on() -> None:
    fields = as_dict(report())
    for name in ("float", "target"):
        assert fields[name]["image_auroc"] == getattr(report(), name.replace("float", "float_")).image_auroc
        assert {"aupro", "image_f1", "pixel_auroc", "false_rejects", "escapes"} <= set(fields[name])
        assert {"calibrated_threshold", "quantiles"} <= set(fields[name])
    assert fields["latency_ms"] == {"float": 361.8, "target": 93.4}
    assert fields["model_bytes"] == {"float": 5396381, "target": 1439877}
    assert fields["flipped_verdicts"] == ["test/good/011.png", "test/dent/000.png"]
    assert fields["images"][0]["float_verdict"] == "pass"
    for name in ("score_correlation", "map_correlation", "worst_map_correlation", "good_map_correlation"):
        assert 0.9 < fields[name] < 1
    assert (fields["measured_on"], fields["measured_images"]) == ("labelled test images", 21)


def test_nan_becomes_null() -> None:
    images = [image("a.png", "good", 0.1, math.nan, map_correlation=math.nan, target_verdict=Verdict.FAULT)]
    record = report(images, map_correlation=math.nan, score_correlation=math.nan)
    read = from_dict(as_dict(record))
    assert (read.map_correlation, read.score_correlation, read.images[0].map_correlation) == (None,) * 3
    assert read.images[0].target_score is None and read.images[0].flipped
    assert record.worst_image is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flipped_verdicts": ()}, "flipped_verdicts"),
        ({"flipped_verdicts": ("test/dent/000.png", "test/good/011.png")}, "in their order"),
        ({"measured_images": 20}, "counts 20"),
        ({"images": [], "measured_images": 0, "flipped_verdicts": ()}, "at least 1"),
        ({"format_version": 2}, "format 2 is not known here"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        report(**changes)


def test_two_images_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="same name"):
        report([*some_images(), some_images()[0]])


@pytest.mark.parametrize(("passed", "broken"), [(True, ("too low",)), (False, ())])
def test_limits_cannot_be_broken_and_passed(passed: bool, broken: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="limits"):
        Limits(max_drop=0.1, min_map_correlation=None, passed=passed, broken=broken, forced=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 7}, "format 7"),
        ({"format_version": None}, "format none"),
        ({"surprise": 1}, "surprise"),
        ({"gmac": "much"}, "gmac"),
        ({"measured_images": 3}, "counts 3"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dict(as_dict(report()) | change)
    with pytest.raises(InputError, match="format none"):
        from_dict({"note": "a bundle from before"})


def test_any_file_name_can_be_written() -> None:
    name = image_name(Path(os.fsdecode(b"gr\xfcn/\xc3\xa4.png")))
    assert name == "gr\\xfcn/ä.png"
    assert from_dict(as_dict(report([image(name, "good", 0.1, 0.1)]))).images[0].name == name
