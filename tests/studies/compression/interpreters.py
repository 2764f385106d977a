"""Interpreters that have other projects' tools."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

STEP_NEEDS: dict[str, tuple[str, ...]] = {
    "ort": ("onnxscript",),
    "openvino": ("nncf", "openvino", "onnxscript"),
    "litert": ("litert_torch", "ai_edge_quantizer"),
    "ours": ("onnxscript", "openvino", "ai_edge_litert"),
    "anomalib": ("anomalib", "nncf", "openvino"),
    "padim": ("onnxscript",),
}
"""The packages that a step needs beside edge-ad's own."""
_ROOT = Path(__file__).resolve().parents[3]
_ROOMS = (".", "sdk", "converters", "runtime", "calibration")


def find_python(step: str, pythons: Sequence[Path]) -> Path | None:
    """The first interpreter that has what a step needs, if any; this one is tried before those given."""
    code = "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))"
    for python in (Path(sys.executable), *pythons):
        command = [str(python), "-c", code, *STEP_NEEDS[step]]
        if not subprocess.run(command, check=False, env=_environment()).returncode:
            return python
    return None


def run_module(python: Path, module: str, arguments: Sequence[str]) -> str:
    """Run a module of this repository in an interpreter; the last line of what it complains about, empty if nothing.

    A process of its own even here: some tools change settings of torch and of logging for good.
    """
    command = [str(python), "-m", module, *arguments]
    done = subprocess.run(command, check=False, cwd=_ROOT, env=_environment(), capture_output=True, text=True)
    if not done.returncode:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1][:400] if lines else f"exit status {done.returncode}"


def _environment() -> dict[str, str]:
    rooms = os.pathsep.join(str(_ROOT / room) for room in _ROOMS)
    return {**os.environ, "PYTHONPATH": rooms}
