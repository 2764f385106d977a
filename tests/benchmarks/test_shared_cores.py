"""The comparison of shared with own cores runs; what it finds on this machine is not the question."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad_runtime.cores import usable_cores
from edge_ad_runtime.engines.options import EngineOptions
from tests.benchmarks.shared_cores import compare, ways


def test_ways_share_out_all_cores() -> None:
    found = ways("ort", (0, 1, 2, 3, 4))
    assert found["cpus 0-1 and 2-4"] == (EngineOptions(cpus=(0, 1)), EngineOptions(cpus=(2, 3, 4)))
    assert len(found) == 4


@pytest.mark.skipif(len(usable_cores()) < 2, reason="one core cannot be shared out")
def test_every_way_is_measured(tiny_bundle: Path) -> None:
    result = compare(tiny_bundle, rounds=2, parts=3, period_ms=1.0)
    assert len(result) == 4
    first, *_ = result.values()
    assert first["p50_ratio"] == first["p99_ratio"] == 1
    assert all(0 < v["p50_ms"] <= v["p99_ms"] for v in result.values())
