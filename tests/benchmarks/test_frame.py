"""The frame benchmark runs, knows its sides apart, and finds no frame-sized memory in the loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.frame import HERE, Side, measure, table
from tests.benchmarks.frame_worker import STAGES


def test_stages_of_both_sides(tiny_bundle: Path) -> None:
    result = measure(tiny_bundle, HERE, rounds=1, frames=5, threads=1, sizes=[(640, 480)])
    sides = result["640x480"]
    assert list(sides) == ["naive", "before", "after"]
    for side in sides.values():
        for key in ("cpu_us", "wall_us", "bytes"):
            assert set(side[key]) == set(STAGES)
        assert min(side["cpu_us"][s] for s in ("preprocess", "engine", "scoring", "link", "records")) > 0
        assert side["without_engine"]["cpu"] > 0
    # The same checkout on both sides.
    for name in ("before", "after"):
        assert sides[name]["bytes"]["colours"] < 10_000
        assert sides[name]["bytes"]["preprocess"] < 10_000
    assert sides["naive"]["bytes"]["colours"] > 640 * 480 * 3
    text = table(result)
    assert text.count("\n") > 20


def test_a_folder_without_a_runtime_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="in place of the runtime"):
        Side(tmp_path, tiny_bundle, 1)
