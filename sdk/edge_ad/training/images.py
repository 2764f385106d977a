"""Preprocessed images for the training: read once when they fit in memory, read ahead of the step when not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np

from edge_ad.data.inputs import read_input
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.tiling import TileGrid
from edge_ad_runtime.types import Image

CACHE_BYTES = 2 << 30
# Enough that one slow file does not hold the step up; few enough to cost no memory.
_AHEAD = 4
_Item = TypeVar("_Item")


class ImageStore:
    """Reads and preprocesses images once each, as long as all of them fit in ``CACHE_BYTES``."""

    def __init__(self, paths: Sequence[Path], bytes_each: int, load: Callable[[Path], Image]) -> None:
        self._paths, self._load = tuple(paths), load
        self._keep = len(paths) * bytes_each <= CACHE_BYTES
        self._cache: dict[int, Image] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Image:
        if (image := self._cache.get(index)) is None:
            image = self._load(self._paths[index])
            if self._keep:
                self._cache[index] = image
        return image

    def batch(self, indices: Sequence[int]) -> Image:
        """``uint8 NxHxWx3``."""
        return np.concatenate([self[i] for i in indices])


class _TileStore(ImageStore):
    """The tiles of images, image by image: number ``i`` is tile ``i % tiles`` of image ``i // tiles``."""

    def __init__(self, images: ImageStore, grid: TileGrid) -> None:
        self._images, self._grid = images, grid
        # Where the images do not fit in memory, going through the tiles in order still reads each image once.
        self._last: tuple[int, Image] | None = None

    def __len__(self) -> int:
        return len(self._images) * len(self._grid)

    def __getitem__(self, index: int) -> Image:
        image, tile = divmod(index, len(self._grid))
        if self._last is None or self._last[0] != image:
            self._last = (image, self._images[image])
        return np.ascontiguousarray(self._grid.window(self._last[1], tile))


def training_store(paths: Sequence[Path], spec: PreprocessSpec) -> ImageStore:
    """The images, resized, ``uint8 1xHxWx3``; with tiles, whole ones."""
    return ImageStore(paths, spec.height * spec.width * 3, lambda p: read_input(p, spec))


def network_store(paths: Sequence[Path], spec: PreprocessSpec) -> ImageStore:
    """What the network is trained on, ``uint8 1xHxWx3`` of its input size: the images, or with tiles all of theirs.

    The tiles are those of the grid, at no other places: the autoencoder learns what each looks like, and the
    running model never sees any other.
    """
    images = training_store(paths, spec)
    return images if spec.grid is None else _TileStore(images, spec.grid)


class Ahead(Generic[_Item]):
    """Makes the items of the next steps in a thread while the present step runs.

    ``make(step)`` must depend on the step alone, so that what is made ahead is what would be made in time.
    """

    def __init__(self, make: Callable[[int], _Item]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1, "images ahead")
        self._made: dict[int, Future[_Item]] = {}

    def __enter__(self) -> Ahead[_Item]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def get(self, step: int) -> _Item:
        """The item of a step; whatever went wrong in making it is raised here."""
        for ahead in range(step, step + _AHEAD + 1):
            if ahead not in self._made:
                self._made[ahead] = self._pool.submit(self._make, ahead)
        return self._made.pop(step).result()
