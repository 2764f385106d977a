"""Resizing images: the same pixels whatever the memory, the order of colours and the number of threads."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.types import Image

# Area averaging takes about a nanosecond a value on a desktop processor, handing a strip over some 50 µs in all.
_STRIP_VALUES = 300_000


class Workspace:
    """Memory and threads that are used again for every image that is resized to ``height`` x ``width``.

    ``batch``, ``uint8 1xhxwx3``, is always the same array; each image overwrites it. Not for use by two threads at once.
    """

    def __init__(self, height: int, width: int, threads: int = 1) -> None:
        """``threads`` share large images, the caller's among them; at least 1."""
        self.batch: Image = np.empty((1, height, width, 3), np.uint8)
        self._unordered: Image = np.empty((height, width, 3), np.uint8)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "resizing") if threads > 1 else None

    def resize(self, image: Image) -> Image:
        """:func:`resize` of a ``uint8 HxWx3`` image, in :attr:`batch`."""
        out = self.batch[0]
        height, width = out.shape[:2]
        same_size = image.shape[:2] == (height, width)
        if _is_reversed(image):
            image = image[:, :, ::-1]
            if not same_size:
                image = _resized(image, height, width, self._unordered, self._pool, self._threads)
            _written(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out), out)
        elif same_size:
            np.copyto(out, image)
        else:
            _resized(image, height, width, out, self._pool, self._threads)
        return self.batch

    def close(self) -> None:
        """End the threads; they end by themselves with the object."""
        if self._pool is not None:
            self._pool.shutdown()


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


def _resized(
    image: Image,
    height: int,
    width: int,
    out: Image | None = None,
    pool: Executor | None = None,
    threads: int = 1,
) -> Image:
    h, w = image.shape[:2]
    shrunk = (min(h, height), min(w, width))
    grows = shrunk != (height, width)
    if shrunk != (h, w):
        if grows or out is None or pool is None:
            into = None if grows else out
            image = _written(cv2.resize(image, shrunk[::-1], dst=into, interpolation=cv2.INTER_AREA), into)
        else:
            image = _shrink_in_strips(image, out, pool, threads)
    if grows:
        image = _written(cv2.resize(image, (width, height), dst=out, interpolation=cv2.INTER_LINEAR), out)
    return image


def _shrink_in_strips(image: Image, out: Image, pool: Executor, threads: int) -> Image:
    """OpenCV shrinks images below a million pixels on one core; strips of them go to several."""
    (height, width), (h, w) = out.shape[:2], image.shape[:2]
    # Whole factors have a fast way of their own.
    whole_factors = h % height == 0 and w % width == 0
    most = 1 if whole_factors else min(threads, image.size // _STRIP_VALUES)
    first, *others = strips(h, height, most)
    given = [pool.submit(_average, image[source], out[target]) for source, target in others]
    try:
        _average(image[first[0]], out[first[1]])
    finally:
        # Even after an error nobody may write into the memory any more when the next image comes.
        wait(given)
    for future in given:
        future.result()
    return out


def _average(source: Image, target: Image) -> None:
    _written(cv2.resize(source, target.shape[1::-1], dst=target, interpolation=cv2.INTER_AREA), target)


def _written(result: npt.NDArray[Any], out: Image | None) -> Image:
    """``result``, in ``out`` where that is given: an OpenCV that did not take it must not leave the image before there."""
    if out is not None and result is not out:
        np.copyto(out, result, casting="no")
        return out
    return np.asarray(result, np.uint8)


def strips(source: int, target: int, most: int) -> list[tuple[slice, slice]]:
    """Cut an axis of ``source`` pixels that is averaged down to ``target`` into at most ``most`` parts.

    Each is a slice of the source and one of the target that together give the same values as the whole: the cuts lie
    between two pixels of both, and the factor is a binary fraction, so that every place and weight that OpenCV computes
    in floating point is exact, wherever it begins to count. Without such cuts it is one part.
    """
    common = math.gcd(source, target)
    step = target // common
    # The factor as cv::resize computes it.
    factor = 1.0 / (target / source)
    exact = step & (step - 1) == 0 and factor * step == source // common
    count = max(1, min(most, common)) if exact else 1
    cuts = [common * i // count for i in range(count + 1)]
    per_unit = source // common
    return [
        (slice(a * per_unit, b * per_unit), slice(a * step, b * step)) for a, b in itertools.pairwise(cuts)
    ]
