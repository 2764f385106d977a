"""``edge-ad bench``: its output, and that it is fair."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_ad_runtime.errors import BundleError, InputError
from edge_ad_runtime.preprocess import PreprocessSpec, Roi
from edge_ad_runtime.timing import noise_frame, percentiles, resident_memory, time_bundles
from tests.conftest import good_part
from tests.evaluation.conftest import run, save


def test_the_command_prints_json(tiny_bundle: Path, tmp_path: Path) -> None:
    save(tmp_path / "frame.png", good_part(1, 480, 640))
    done = run(
        "bench", tiny_bundle, tiny_bundle, "--rounds", "20", "--threads", "1",
        "--image", tmp_path / "frame.png", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert (got["rounds"], got["threads"], len(got["bundles"])) == (20, 1, 2)
    for timing in got["bundles"]:
        assert timing["bundle"] == str(tiny_bundle)
        engine, total = timing["engine_ms"], timing["end_to_end_ms"]
        assert 0 < engine["p50"] <= engine["p99"]
        assert 0 < total["p50"] <= total["p99"]
        assert engine["p50"] < total["p50"] < 1000
        # A Python with numpy, OpenCV and onnxruntime; torch alone would be beyond it.
        assert 20 < timing["rss_mb"] < 200
        assert timing["gmac"] == 0.0


def test_a_bundle_costs_as_much_as_itself(tiny_bundle: Path) -> None:
    rounds = []
    first, second = time_bundles(
        [tiny_bundle, tiny_bundle], rounds=60, threads=1, after_round=lambda: rounds.append(1)
    )
    assert len(rounds) == 60
    assert first.engine_ratio == 1
    assert 0.6 < second.engine_ratio < 1.6
    assert 0.5 < second.end_to_end_ms.p50 / first.end_to_end_ms.p50 < 2


def test_the_table_names_every_bundle(tiny_bundle: Path) -> None:
    done = run("bench", tiny_bundle, "--rounds", "2")
    assert done.returncode == 0, done.stderr
    assert str(tiny_bundle) in done.stdout and "p99" in done.stdout


def test_timing_needs_no_host_packages(tiny_bundle: Path) -> None:
    """With everything that the device install lacks made unimportable."""
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "sklearn", "matplotlib", "tqdm", "safetensors"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from edge_ad.cli import main
main()
"""
    command = [sys.executable, "-c", code, "bench", str(tiny_bundle), "--rounds", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bundles"][0]["rss_mb"] > 0
    command[3] = "evaluate"
    command[4:] = [str(tiny_bundle), "."]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1 and "edge-ad[host]" in done.stderr and "Traceback" not in done.stderr


def test_errors_are_named(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x.edgead").write_bytes(b"nothing")
    done = run("bench", tiny_bundle, tmp_path / "x.edgead")
    assert done.returncode == 1 and "x.edgead" in done.stderr and "Traceback" not in done.stderr
    assert run("bench").returncode == 2
    with pytest.raises(BundleError, match=r"x\.edgead"):
        resident_memory(tmp_path / "x.edgead")
    with pytest.raises(InputError):
        time_bundles([], rounds=1)
    with pytest.raises(InputError):
        time_bundles([tiny_bundle], rounds=0)


def test_percentiles_by_hand() -> None:
    got = percentiles([i * 1_000_000 for i in range(1, 101)])
    assert (got.p50, got.p99) == (50.5, 100.0)
    assert percentiles([2_500_000]) == type(got)(2.5, 2.5)
    with pytest.raises(InputError):
        percentiles([])


def test_the_noise_frame_holds_every_region() -> None:
    plain = PreprocessSpec(64, 64)
    assert noise_frame([plain]).shape == (960, 1280, 3)
    assert noise_frame([plain, PreprocessSpec(64, 64, Roi(1000, 900, 500, 500))]).shape == (1400, 1500, 3)
    assert np.array_equal(noise_frame([plain]), noise_frame([plain]))
