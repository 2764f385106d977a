"""The older tflite-runtime 2.14, with numpy below 2, opens the same files: a study that builds its environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_ad_runtime.engines import open_engine
from tests.conversion.test_fuse import deviation, photograph
from tests.conversion.test_tflite import build

ROOT = Path(__file__).parents[2]
# numpy below 2 excludes OpenCV from 4.12 on.
PACKAGES = [
    "tflite-runtime==2.14.0",
    "numpy<2",
    "opencv-python-headless<4.12",
    "click",
    "pyserial",
    "msgspec",
]
# This runtime does INT8 without XNNPACK, by fixed-point kernels that round ties up and interpolate more coarsely:
# up to 2 steps where the newer one is within half a step of the exact value.
TOLERANCE = 0.15
PROGRAM = """
import sys
import numpy as np
from edge_ad_runtime.engines import EngineOptions
from edge_ad_runtime.engines.tflite import TfliteEngine
engine = TfliteEngine(open(sys.argv[1], "rb").read(), EngineOptions(threads=1))
maps = engine.run(np.load(sys.argv[2]))
np.savez(sys.argv[3], st=maps.st, ae=maps.ae)
print(engine.name, np.__version__)
"""


@pytest.mark.study
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime 2.14 has no wheels for this Python")
def test_the_same_file_in_tflite_runtime(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(tmp_path / "venv")],
        [str(python), "-m", "pip", "install", "-q", *PACKAGES],
        [str(python), "-m", "pip", "install", "-q", "--no-deps", str(ROOT)],
    ):
        subprocess.run(command, check=True, cwd=tmp_path)
    models = build("n", False)
    image = photograph()
    np.save(tmp_path / "image.npy", image)
    for pair, tolerance in ((models.float_, 1e-5), (models.int8, TOLERANCE)):
        model, maps = tmp_path / "model.tflite", tmp_path / "maps.npz"
        model.write_bytes(pair.tflite)
        command = [str(python), "-c", PROGRAM, str(model), str(tmp_path / "image.npy"), str(maps)]
        done = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.startswith("tflite-runtime 2.14.0 1.26")
        new = open_engine("tflite", pair.tflite, "fp32", 1).run(image)
        with np.load(maps) as old:
            for ours, theirs in zip(new, (old["st"], old["ae"]), strict=True):
                assert deviation(ours, theirs) < tolerance
                assert abs(theirs.mean() / ours.mean() - 1) < 0.01
