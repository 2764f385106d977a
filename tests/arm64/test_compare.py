"""What the comparison of two runs finds, on runs made up for it; nothing is emulated here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import pytest

from edge_ad_runtime.events import PartEvent
from tests.arm64.__main__ import parse_task
from tests.arm64.compare import (
    Comparison,
    Side,
    measure,
    read_parts,
    score_difference,
    table,
    verdicts_differing,
)
from tests.arm64.job import MAIN, Task, check_tasks
from tests.arm64.root import Arm64Error
from tests.conftest import bad_part, good_part


def part(number: int, score: float | None, threshold: float = 0.5, **changes: Any) -> PartEvent:
    verdict: Literal["pass", "reject", "fault"]
    verdict = "fault" if score is None else "reject" if score > threshold else "pass"
    event = PartEvent(
        part=number, source=f"images/{number}.png", score=score, threshold=threshold, verdict=verdict,
        latency_ms=1.0, t_monotonic_ns=number, time="",
    )  # fmt: skip
    return msgspec.structs.replace(event, **changes)


def compared(**changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "bundle": "b.edgead", "target": "ort", "precision": "int8", "environment": "ort",
        "processor": "cortex-a76", "engine_arm64": "onnxruntime 1", "images": 2, "golden_arm64": 0.01,
        "score_difference": 0.001, "score_bound": 0.02,
    }  # fmt: skip
    return Comparison(**(values | changes))


def test_difference_is_relative_to_the_larger_of_score_and_threshold() -> None:
    x86 = [part(1, 0.0), part(2, 2.0)]
    assert score_difference(x86, x86) == 0
    assert score_difference(x86, [part(1, 0.1), part(2, 2.0)]) == pytest.approx(0.1 / 0.5)
    assert score_difference(x86, [part(1, 0.0), part(2, 1.9)]) == pytest.approx(0.1 / 2)


@pytest.mark.parametrize(
    "arm64",
    [[], [part(1, 0.1)], [part(1, 0.1), part(3, 0.1)], [part(1, 0.1), part(2, None)]],
    ids=["none", "one less", "other image", "fault"],
)
def test_runs_of_other_images_or_with_faults_are_not_compared(arm64: list[PartEvent]) -> None:
    with pytest.raises(Arm64Error):
        score_difference([part(1, 0.1), part(2, 0.1)], arm64)


def test_runs_without_parts_are_not_equal() -> None:
    with pytest.raises(Arm64Error):
        score_difference([], [])


def test_flipped_verdicts_are_named() -> None:
    x86, arm64 = [part(1, 0.499), part(2, 2.0)], [part(1, 0.501), part(2, 2.0)]
    assert verdicts_differing(x86, arm64) == ("images/1.png: pass on x86, reject on ARM64",)
    assert verdicts_differing(x86, x86) == ()


def test_only_a_whole_and_equal_comparison_passes() -> None:
    assert compared().passed
    assert not compared(images=0).passed
    assert not compared(score_difference=None).passed
    assert not compared(score_difference=float("nan")).passed
    assert not compared(score_difference=0.021).passed
    assert not compared(verdicts_differing=("images/1.png: pass on x86, reject on ARM64",)).passed
    assert not compared(error="the engine crashed").passed


def test_table_has_a_row_for_each_and_no_times() -> None:
    text = table([compared(), compared(environment="tflite", error="the engine crashed")])
    assert len(text.splitlines()) == 4
    assert "| onnxruntime 1 | cortex-a76 | 2 | 0.01 | 0.001 | 0 |" in text
    assert "failed: the engine crashed" in text
    assert " ms" not in text


@pytest.mark.parametrize("text", ["b.edgead", "=images", "b.edgead="])
def test_task_is_a_bundle_and_its_images(text: str) -> None:
    assert parse_task("a=b.edgead=images") == Task(Path("a=b.edgead"), Path("images"))
    with pytest.raises(ValueError, match="BUNDLE=IMAGES"):
        parse_task(text)


def test_tasks_are_checked_first(tiny_bundle: Path, parts: Path, tmp_path: Path) -> None:
    good = Task(tiny_bundle, parts / "test" / "good")
    assert [b.manifest.target for b in check_tasks([good])] == ["ort"]
    with pytest.raises(Arm64Error, match="two bundles are named"):
        check_tasks([good, good])
    with pytest.raises(Arm64Error, match="not a folder with images"):
        check_tasks([replace(good, images=tmp_path)])
    with pytest.raises(Arm64Error, match="not a folder with images"):
        check_tasks([replace(good, images=parts / "test")])


def test_measuring_a_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i, image in enumerate((good_part(100), bad_part(101))):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), image)
    (tmp_path / "b.edgead").write_bytes(tiny_bundle.read_bytes())

    def run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", MAIN, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    side = measure(run, tmp_path, "b.edgead", "images", "x86.jsonl")
    assert isinstance(side, Side)
    assert side.engine.startswith("onnxruntime")
    assert side.golden_deviation <= side.golden_tolerance
    assert [(p.source, p.verdict) for p in side.parts] == [
        ("images/0.png", "pass"),
        ("images/1.png", "reject"),
    ]
    (tmp_path / "b.edgead").write_bytes(tiny_bundle.read_bytes()[:-200])
    with pytest.raises(Arm64Error, match="edge-ad verify: "):
        measure(run, tmp_path, "b.edgead", "images", "again.jsonl")


def test_a_crash_is_told_as_such(tmp_path: Path) -> None:
    def crash(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", "echo before >&2; kill -SEGV $$"], capture_output=True, text=True, check=False
        )

    with pytest.raises(Arm64Error, match="ended by signal 11; before"):
        measure(crash, tmp_path, "b.edgead", "images", "x.jsonl")


def test_an_error_of_several_lines_is_told_whole(tmp_path: Path) -> None:
    def refuse(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        said = "a warning\nedge-ad: the engine refuses the model: first\nsecond\n\n"
        return subprocess.CompletedProcess(list(words), 1, "", said)

    with pytest.raises(Arm64Error, match=r"^edge-ad verify: the engine refuses the model: first second$"):
        measure(refuse, tmp_path, "b.edgead", "images", "x.jsonl")


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Arm64Error, match="no record"):
        read_parts(tmp_path / "none.jsonl")
    (tmp_path / "torn.jsonl").write_text('{"part": 1, "sou')
    with pytest.raises(Arm64Error, match="no record"):
        read_parts(tmp_path / "torn.jsonl")
