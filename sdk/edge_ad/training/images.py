"""Preprocessed images for the training, kept in memory when they fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edge_ad_runtime.images import read_image
from edge_ad_runtime.preprocess import PreprocessSpec, preprocess
from edge_ad_runtime.types import Image

CACHE_BYTES = 2 << 30


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


def training_store(paths: Sequence[Path], spec: PreprocessSpec) -> ImageStore:
    """The images as the network takes them, ``uint8 1xHxWx3``."""
    return ImageStore(paths, spec.height * spec.width * 3, lambda p: preprocess(read_image(p), spec))
