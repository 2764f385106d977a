"""The photographs from which the demo's parts are made: textures that scikit-image carries in its package.

All three are under Creative Commons CC0 1.0 (public domain), as the docstrings of ``skimage.data`` say:

``gravel``  CC0Textures, "Gravel04"; rescaled, cropped and turned grey by scikit-image. The parts' surface.
``grass``   linolafett on DeviantArt, "Grass 01"; cropped and turned grey by scikit-image. The belt's
            fibres, and the blades that fall on a part.
``coffee``  Rachel Michetti, courtesy of Pikolo Espresso Bar. Its wooden table gives the splinters.

They are read from the installed package; nothing is downloaded.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.errors import MissingExtra
from edge_ad_runtime.images import read_image

# Where the coffee photograph shows nothing but wood: rows, columns.
_WOOD = (slice(290, 400), slice(470, 600))


class Photographs(NamedTuple):
    """Textures as deviations around 0 with a standard deviation of 1, ``float32 HxW``."""

    gravel: npt.NDArray[np.float32]
    grass: npt.NDArray[np.float32]
    wood: npt.NDArray[np.float32]


def read_photographs() -> Photographs:
    """Read the textures from the installed scikit-image.

    Raises:
        MissingExtra: scikit-image is not installed.
        ImageError: one of its files is missing or damaged.
    """
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingExtra("scikit-image", "demo", "making the demo's images")
    folder = Path(spec.origin).parent / "data"
    gravel, grass, coffee = (read_image(folder / f"{name}.png") for name in ("gravel", "grass", "coffee"))
    return Photographs(_flatten(gravel), _flatten(grass), _flatten(coffee[_WOOD]))


def _flatten(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Take out the photograph's own lighting: brightness without its coarse part."""
    grey = np.asarray(image.mean(axis=2), np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), min(grey.shape) / 8)
    return np.asarray((detail - detail.mean()) / detail.std(), np.float32)
