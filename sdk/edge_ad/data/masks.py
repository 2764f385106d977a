"""Reading ground-truth masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_ad.data.model import TestImage
from edge_ad_runtime.errors import ImageError
from edge_ad_runtime.images import read_image


def read_mask_values(path: Path, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The values of a ground-truth mask, ``uint8 HxW``, 0 where there is no defect.

    Args:
        path: the mask.
        height: of the image that it belongs to, in pixels.
        width: likewise.

    Raises:
        ImageError: the file is damaged, or its size is not the image's.
    """
    values = read_image(path).max(axis=2)
    if values.shape != (height, width):
        raise ImageError(
            f"{path}: the mask has {values.shape[1]}x{values.shape[0]} pixels, its image {width}x{height}; "
            "save it in the image's size"
        )
    return np.asarray(values, np.uint8)


def read_mask(path: Path, height: int, width: int) -> npt.NDArray[np.bool_]:
    """A ground-truth mask as ``bool HxW``; any non-zero value is defect. See :func:`read_mask_values`.

    Raises:
        ImageError: the file is damaged, or its size is not the image's.
    """
    return np.asarray(read_mask_values(path, height, width) > 0, np.bool_)


def defect_mask(image: TestImage, height: int, width: int) -> npt.NDArray[np.bool_] | None:
    """All masks of an image together, ``bool HxW``; None where it has none.

    Raises:
        ImageError: a mask is damaged, or its size is not the image's.
    """
    if not image.masks:
        return None
    together = np.zeros((height, width), np.bool_)
    for path in image.masks:
        together |= read_mask(path, height, width)
    return together
