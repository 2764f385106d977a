"""The device benchmark runs and its figures are sane; the figures themselves are for people to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad_runtime.inspector import open_inspector
from tests.benchmarks.device import command_line, loop_overhead, measure


def test_loop_and_command_line_figures(tiny_bundle: Path, tmp_path: Path) -> None:
    overhead = loop_overhead(open_inspector(tiny_bundle, threads=1), rounds=20, state=tmp_path)
    assert overhead["with_preprocessing"] > overhead["loop_alone"] > 0
    figures = command_line(tiny_bundle, tmp_path)
    assert 0.05 < figures["start_to_first_verdict_s"] < 60
    assert 30 < figures["peak_rss_mb"] < 1000


@pytest.mark.study
def test_the_whole_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    result = measure([], rounds=60)
    with capsys.disabled():
        print(f"\n{result}")
    assert isinstance(result["n_int8_over_n_fp32"], float)
    assert 0 < result["n_int8_over_n_fp32"] < 1
