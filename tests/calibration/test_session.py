"""Recalibration sessions: what is refused, what is forced, what is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_ad_calibration.fit import fit_calibration
from edge_ad_calibration.history import History
from edge_ad_calibration.session import (
    MIN_IMAGES,
    RecalibrationRefused,
    RecalibrationResult,
    find_outliers,
    recalibrate,
)
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.calibration import Mix, background_of
from edge_ad_runtime.errors import CalibrationError
from edge_ad_runtime.inspector import Inspector
from edge_ad_runtime.types import Image
from edge_ad_runtime.verdict import Verdict
from tests.conftest import bad_part, good_part


@pytest.fixture(scope="module")
def inspector(tiny_bundle: Path) -> Inspector:
    return Inspector(open_bundle(tiny_bundle), threads=1)


@pytest.fixture
def history(inspector: Inspector, tmp_path: Path) -> History:
    return History(tmp_path / "state", inspector.bundle)


def good(count: int, start: int = 1000) -> list[Image]:
    return [good_part(start + i) for i in range(count)]


def session(
    inspector: Inspector, history: History, images: Iterable[Image], **options: Any
) -> RecalibrationResult:
    return recalibrate(inspector, images, history, source="test", **{"false_reject_rate": 0.01, **options})


def refused(inspector: Inspector, history: History, images: Iterable[Image], match: str) -> None:
    before = history.current()
    with pytest.raises(RecalibrationRefused, match=match):
        session(inspector, history, images)
    assert history.current() == before
    assert not history.folder.exists()


def test_it_is_the_fit_of_the_conversion(inspector: Inspector, history: History) -> None:
    images = good(40)
    result = session(inspector, history, iter(images))
    expected = fit_calibration(
        [inspector.raw_maps(i) for i in images],
        bundle=inspector.bundle.id,
        source="test",
        false_reject_rate=0.01,
    )
    assert msgspec.structs.replace(result.after, created=expected.created) == expected
    assert result.before == inspector.bundle.calibration
    assert history.current() == result.after
    assert (result.images, result.repeats, result.warnings, result.suspects) == (40, 0, (), ())
    assert result.written == history.entries()[0].path
    assert len(result.scores) == 40
    assert result.rejected_after == sum(s > result.after.threshold for s in result.scores)


def test_the_new_calibration_judges_as_it_should(inspector: Inspector, history: History) -> None:
    """Brighter light: the factory calibration rejects every good part, the new one only defects."""

    def brighter(image: Image) -> Image:
        return np.asarray(np.clip(image.astype(int) + 12, 0, 255), np.uint8)

    result = session(inspector, history, map(brighter, good(60)), false_reject_rate=1e-4)
    assert result.rejected_before == 60
    assert result.rejected_after == 0
    judge = Inspector(inspector.bundle, history.current(), threads=1)
    assert all(judge.inspect(brighter(i)).verdict == "pass" for i in good(40, 5000))
    assert all(judge.inspect(brighter(bad_part(i))).verdict == "reject" for i in range(10))


def test_a_given_threshold(inspector: Inspector, history: History) -> None:
    result = session(inspector, history, good(30), threshold=0.5)
    assert (result.after.threshold, result.after.method) == (0.5, "given")


def test_a_dry_run_writes_nothing(inspector: Inspector, history: History) -> None:
    result = session(inspector, history, good(30), dry_run=True)
    assert result.written is None
    assert not history.folder.parent.exists()


def test_too_few(inspector: Inspector, history: History) -> None:
    refused(inspector, history, good(MIN_IMAGES - 1), "19 different images are too few")
    refused(inspector, history, good(3), "3 different images are too few")
    refused(inspector, history, [], "0 different images are too few")
    assert session(inspector, history, good(MIN_IMAGES)).warnings == ()


def test_too_few_forced(inspector: Inspector, history: History) -> None:
    result = session(inspector, history, good(6), force=True)
    assert len(result.warnings) == 1
    assert history.current() == result.after
    with pytest.raises(CalibrationError, match="too few"):
        session(inspector, history, good(4), force=True)
    assert history.current() == result.after


def test_a_frozen_camera(inspector: Inspector, history: History) -> None:
    refused(inspector, history, [good_part(1)] * 100, "99 of 100 images repeat .* frozen")


def test_a_camera_that_freezes_on_the_way(inspector: Inspector, history: History) -> None:
    images = good(40)
    refused(inspector, history, images + [images[-1]] * 60, "60 of 100 images repeat")


def test_a_few_repeats_are_left_out(inspector: Inspector, history: History) -> None:
    images = good(30)
    result = session(inspector, history, [*images, *images[:3]])
    assert (result.images, result.repeats, len(result.scores)) == (33, 3, 30)
    assert result.after.images == 30


def test_one_part_many_times(inspector: Inspector, history: History) -> None:
    """The same part, unmoved: the images differ by sensor noise only, which shrinking averages out."""
    part = good_part(1, 640, 640).astype(float)
    rng = np.random.default_rng(0)

    def noisy() -> Iterator[Image]:
        for _ in range(30):
            yield np.clip(part + rng.normal(0, 2, part.shape), 0, 255).astype(np.uint8)

    refused(inspector, history, noisy(), "nearly identical")


def test_bad_parts_among_the_good_ones(inspector: Inspector, history: History) -> None:
    images = good(50)
    images[7], images[31] = bad_part(7), bad_part(31)
    with pytest.raises(RecalibrationRefused, match="image 8, image 32; look at them") as caught:
        session(inspector, history, images)
    assert caught.value.suspects == (7, 31)
    names = [f"part_{i:03d}.png" for i in range(50)]
    with pytest.raises(RecalibrationRefused, match=r"part_007\.png, part_031\.png"):
        session(inspector, history, images, names=names)
    del images[31], images[7]
    assert session(inspector, history, images).suspects == ()


def test_suspects_count_the_repeats(inspector: Inspector, history: History) -> None:
    """The index is that of the image given, not of the image fitted."""
    images = good(40)
    images.insert(1, images[0])
    images[20] = bad_part(20)
    with pytest.raises(RecalibrationRefused) as caught:
        session(inspector, history, images)
    assert caught.value.suspects == (20,)


def test_another_product(inspector: Inspector, history: History) -> None:
    def dark(image: Image) -> Image:
        return (image // 4).astype(np.uint8)

    refused(inspector, history, map(dark, good(40)), "moved from .* more than a factor of 5")
    result = session(inspector, history, map(dark, good(40)), force=True)
    assert any("moved from" in w for w in result.warnings)
    assert history.current() == result.after


def test_images_without_variation_are_refused_even_when_forced(
    inspector: Inspector, history: History
) -> None:
    flat = [np.full((48, 64, 3), level, np.uint8) for level in range(60, 90)]
    with pytest.raises(CalibrationError):
        session(inspector, history, flat)
    same = [np.full((48, 64, 3), 90, np.uint8)] * 30
    with pytest.raises(CalibrationError):
        session(inspector, history, same, force=True)
    assert not history.folder.exists()


def test_a_damaged_history_ends_it_before_the_images_are_read(inspector: Inspector, history: History) -> None:
    session(inspector, history, good(25))
    (history.folder / "current.json").write_text("{")

    def untouched() -> Iterator[Image]:
        pytest.fail("an image was read")
        yield good_part(0)

    with pytest.raises(CalibrationError, match="damaged"):
        session(inspector, history, untouched())


def test_a_history_of_another_bundle(inspector: Inspector, tmp_path: Path) -> None:
    calibration = msgspec.structs.replace(inspector.bundle.calibration, bundle="f" * 64)
    other = msgspec.structs.replace(inspector.bundle, id="f" * 64, calibration=calibration)
    with pytest.raises(CalibrationError, match="another bundle"):
        session(inspector, History(tmp_path, other), good(25))


def test_an_error_in_the_images_writes_nothing(inspector: Inspector, history: History) -> None:
    def breaking() -> Iterator[Image]:
        yield from good(50)
        raise OSError("the cable is out")

    with pytest.raises(OSError, match="the cable is out"):
        session(inspector, history, breaking())
    assert not history.folder.exists()


def test_outliers() -> None:
    scores = np.random.default_rng(5).gumbel(0.2, 0.02, 200).tolist()
    assert find_outliers(scores) == []
    assert find_outliers([*scores, 1.0, 0.19, 2.0]) == [200, 202]
    assert find_outliers([0.1] * 10 + [0.2]) == [10]
    assert find_outliers([0.1] * 10) == []


def test_honest_sessions_are_rarely_refused_for_outliers() -> None:
    """Scores as the threshold's fit assumes them: 100 good parts are refused in fewer than 3 % of sessions."""
    rng = np.random.default_rng(6)
    refusals = sum(bool(find_outliers(rng.gumbel(0.3, 0.05, 100).tolist())) for _ in range(1000))
    assert refusals < 30


def test_score_and_mix_change_and_stay(inspector: Inspector, history: History) -> None:
    """Another rule comes with its own threshold, and the next recalibration keeps it."""
    first = session(inspector, history, good(30), score="topk:4", mix=Mix(0.8, 0.2)).after
    assert (first.score, first.mix) == ("topk:4", Mix(0.8, 0.2))
    assert first.threshold != inspector.bundle.calibration.threshold
    second = session(inspector, history, good(30, 2000)).after
    assert (second.score, second.mix) == ("topk:4", Mix(0.8, 0.2))
    judge = Inspector(inspector.bundle, second, threads=1)
    assert judge.inspect(good_part(9)).verdict is Verdict.PASS
    assert judge.inspect(bad_part(9)).verdict is Verdict.REJECT
    chosen = session(inspector, history, good(30, 3000), mix="auto", score="max").after
    assert chosen.score == "max" and 0 < chosen.mix.st < 1


def test_a_background_is_refitted_where_the_bundle_has_one(inspector: Inspector, history: History) -> None:
    assert session(inspector, history, good(30)).after.background is None
    maps = [inspector.raw_maps(i) for i in good(30)]
    factory = fit_calibration(maps, bundle=inspector.bundle.id, source="test", background=True)
    history.append(factory)
    after = session(inspector, history, good(30, 2000)).after
    assert after.background is not None and after.background != factory.background
    judge = Inspector(inspector.bundle, after, threads=1)
    assert judge.inspect(good_part(9)).verdict is Verdict.PASS
    assert judge.inspect(bad_part(9)).verdict is Verdict.REJECT
    small = msgspec.structs.replace(after, background=background_of(np.zeros((3, 3), np.float32)))
    with pytest.raises(CalibrationError, match="3x3 cells"):
        Inspector(inspector.bundle, small, threads=1)
