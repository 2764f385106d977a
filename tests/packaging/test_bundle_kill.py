"""SIGKILL at any moment of writing a bundle leaves the old one or the new one, and it opens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from edge_ad_runtime.bundle import open_bundle
from tests.packaging.kill_writer import write

KILLS = 200


def _run(script: str, *words: str | Path) -> dict[str, Any]:
    # One thread in the numerical libraries: a process with threads should not fork.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name(script), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_kill_while_overwriting(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    # Large enough that a kill often hits the middle of the file.
    other = msgspec.structs.replace(bundle, report={"note": "x" * 1_500_000})
    large = tmp_path / "large.edgead"
    write(other, large)
    folder = tmp_path / "device"
    folder.mkdir()
    result = _run("kill_writer.py", tiny_bundle, large, folder, str(KILLS), "1")
    found = result["found"]
    assert found["does not open"] == found["other"] == 0
    assert found["old"] + found["new"] == KILLS
    # Both outcomes occurred, and writes were cut: otherwise the kills hit nothing.
    assert min(found["old"], found["new"]) >= 10
    assert result["interrupted"] >= 20


def test_kill_while_converting(short_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.edgead"
    result = _run("kill_convert.py", short_run, out, "4", "1")
    assert result["first"] == 0
    assert result["opened"] == 4
    assert result["cut"] >= 2
    # Beside the bundle nothing but what a killed writer had begun.
    assert [n for n in result["names"] if not n.startswith(f".{out.name}.")] == [out.name]
