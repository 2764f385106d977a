"""The device side works, and is imported, without any package of an extra."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# What a device may not have: the host's libraries, and engines and drivers that are an extra.
BLOCKED = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "tensorflow",
    "matplotlib",
    "sklearn",
    "scipy",
    "skimage",
    "safetensors",
    "tqdm",
    "onnxruntime",
    "ai_edge_litert",
    "openvino",
    "gpiod",
)
HOST_VERBS = ("distill", "train", "evaluate", "convert")

_BLOCKER = """
import importlib, json, pkgutil, sys

class Blocker:
    def __init__(self, names):
        self.names = frozenset(names)
        self.asked = []
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            self.asked.append(name)
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

blocker = Blocker(json.loads(sys.argv[1]))
sys.meta_path.insert(0, blocker)
"""
_IMPORT = """
imported = []
for name in sys.argv[2:]:
    module = importlib.import_module(name)
    imported.append(name)
    if hasattr(module, "__path__") and not name.startswith("edge_ad."):
        for info in pkgutil.walk_packages(module.__path__, name + "."):
            importlib.import_module(info.name)
            imported.append(info.name)
loaded = sorted(n for n in sys.modules if n.partition(".")[0] in blocker.names)
print(json.dumps({"imported": imported, "asked": blocker.asked, "loaded": loaded}))
"""
_COMMAND_LINE = """
from edge_ad.cli import main
main(sys.argv[2:])
"""


def _without_extras(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _BLOCKER + program, json.dumps(BLOCKED), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _import(*names: str) -> tuple[list[str], list[str], list[str]]:
    """What was imported, which blocked packages were asked for, which were loaded."""
    done = _without_extras(_IMPORT, *names)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return result["imported"], result["asked"], result["loaded"]


def test_every_device_module_imports_without_the_extras() -> None:
    imported, asked, loaded = _import("edge_ad_runtime", "edge_ad_calibration", "edge_ad.cli")
    assert len(imported) > 20
    assert asked == []
    assert loaded == []


@pytest.mark.parametrize("verb", ["info", "report", "verify", "run", "recalibrate", "rollback", "bench"])
def test_device_verb_imports_without_the_extras(verb: str) -> None:
    _, asked, loaded = _import(f"edge_ad.cli.{verb}")
    assert asked == []
    assert loaded == []


def test_the_blocker_blocks() -> None:
    done = _without_extras(_IMPORT, "edge_ad.cli.train")
    assert done.returncode != 0
    assert "torch is blocked" in done.stderr


@pytest.mark.parametrize("verb", HOST_VERBS)
def test_host_verb_names_its_extra(verb: str) -> None:
    done = _without_extras(_COMMAND_LINE, verb, "--help")
    assert done.returncode == 1
    assert "pip install 'edge-ad[host]'" in done.stderr
    assert "Traceback" not in done.stderr
