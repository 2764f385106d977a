"""A small data set in the MVTec AD layout, for the tiny bundle."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_ad.cli import main
from tests.conftest import bad_part, good_part

HEIGHT, WIDTH = 96, 128
SPOT = (slice(36, 60), slice(80, 112))
"""Rows and columns of the defect ``spot``; they are whole cells of the tiny bundle's 8x8 map."""


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``edge-ad`` in a process of its own."""
    command = [sys.executable, "-c", "from edge_ad.cli import main; main()", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def call(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """``edge-ad`` in this process, which spares the seconds of a new one."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(a) for a in args])
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def save(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write an RGB image or a mask as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    path.write_bytes(cv2.imencode(".png", ordered)[1].tobytes())


def spot_part(seed: int) -> npt.NDArray[np.uint8]:
    """A good part with a bright rectangle at :data:`SPOT`."""
    image = good_part(seed, HEIGHT, WIDTH)
    image[SPOT] = 200
    return image


def spot_mask() -> npt.NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[SPOT] = 255
    return mask


def write_data(root: Path) -> Path:
    """Good images, four ``spot`` with masks, one ``faint`` (a good part in truth) and one ``odd`` without."""
    for i in range(3):
        save(root / "train" / "good" / f"{i:03}.png", good_part(i, HEIGHT, WIDTH))
    for i in range(5):
        save(root / "test" / "good" / f"{i:03}.png", good_part(100 + i, HEIGHT, WIDTH))
    for i in range(4):
        save(root / "test" / "spot" / f"{i:03}.png", spot_part(200 + i))
        save(root / "ground_truth" / "spot" / f"{i:03}_mask.png", spot_mask())
    save(root / "test" / "faint" / "000.png", good_part(300, HEIGHT, WIDTH))
    save(root / "test" / "odd" / "000.png", bad_part(301, HEIGHT, WIDTH))
    return root


@pytest.fixture(scope="session")
def labelled_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set's folder; not to be changed."""
    return write_data(tmp_path_factory.mktemp("labelled") / "parts")
