"""SIGKILL at any moment of writing a bundle leaves the old one or the new one, and it opens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from edge_ad_runtime.bundle import open_bundle
from tests.packaging.kill_writer import write

KILLS = 200


def _kill(old: Path, new: Path, folder: Path) -> dict[str, dict[str, int] | int]:
    # One thread in the numerical libraries: a process with threads should not fork.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("kill_writer.py")
    done = subprocess.run(
        [sys.executable, script, old, new, folder, str(KILLS), "1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, dict[str, int] | int] = json.loads(done.stdout)
    return result


def test_kill_while_overwriting(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    # Large enough that a kill often hits the middle of the file.
    other = msgspec.structs.replace(bundle, report={"note": "x" * 1_500_000})
    large = tmp_path / "large.edgead"
    write(other, large)
    folder = tmp_path / "device"
    folder.mkdir()
    result = _kill(tiny_bundle, large, folder)
    found = result["found"]
    assert isinstance(found, dict)
    assert found["does not open"] == found["other"] == 0
    assert found["old"] + found["new"] == KILLS
    # Both outcomes occurred, and writes were cut: otherwise the kills hit nothing.
    assert min(found["old"], found["new"]) >= 10
    interrupted = result["interrupted"]
    assert isinstance(interrupted, int) and interrupted >= 20
