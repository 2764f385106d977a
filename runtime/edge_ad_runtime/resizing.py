"""Resizing images: the same pixels whatever the memory and the order of colours."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.types import Image


class Workspace:
    """Memory that is used again for every image that is resized to ``height`` x ``width``.

    ``batch``, ``uint8 1xhxwx3``, is always the same array; each image overwrites it. Not for use by two threads at once.
    """

    def __init__(self, height: int, width: int) -> None:
        self.batch: Image = np.empty((1, height, width, 3), np.uint8)
        self._result: Image = self.batch[0]
        self._unordered: Image = np.empty((height, width, 3), np.uint8)

    def resize(self, image: Image) -> Image:
        """:func:`resize` of a ``uint8 HxWx3`` image, in :attr:`batch`."""
        out = self._result
        height, width = out.shape[:2]
        same_size = image.shape[:2] == (height, width)
        if _is_reversed(image):
            image = image[:, :, ::-1]
            if not same_size:
                image = _resized(image, height, width, self._unordered)
            _written(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out), out)
        elif same_size:
            np.copyto(out, image)
        else:
            _resized(image, height, width, out)
        return self.batch


def resize(image: Image, height: int, width: int) -> Image:
    """Resize ``uint8 HxWxC``: area averaging along axes that shrink, bilinear along axes that grow.

    The result is contiguous; where nothing changes it is the image itself, if that is contiguous.
    """
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    if _is_reversed(image):
        unordered = _resized(image[:, :, ::-1], height, width)
        return np.asarray(cv2.cvtColor(unordered, cv2.COLOR_BGR2RGB), np.uint8)
    return _resized(image, height, width)


def _is_reversed(image: Image) -> bool:
    """Whether the colours lie in memory in the other order than in the array, as those of a camera's BGR image do.

    Each colour is resized by itself, so they may change places afterwards, when the image is small.
    """
    return image.ndim == 3 and image.shape[2] == 3 and image.strides[2] == -1


def _resized(image: Image, height: int, width: int, out: Image | None = None) -> Image:
    h, w = image.shape[:2]
    shrunk = (min(h, height), min(w, width))
    grows = shrunk != (height, width)
    if shrunk != (h, w):
        into = None if grows else out
        image = _written(cv2.resize(image, shrunk[::-1], dst=into, interpolation=cv2.INTER_AREA), into)
    if grows:
        image = _written(cv2.resize(image, (width, height), dst=out, interpolation=cv2.INTER_LINEAR), out)
    return image


def _written(result: npt.NDArray[Any], out: Image | None) -> Image:
    """``result``, in ``out`` where that is given: an OpenCV that did not take it must not leave the image before there."""
    if out is not None and result is not out:
        np.copyto(out, result, casting="no")
        return out
    return np.asarray(result, np.uint8)
