"""Where a training step's views and targets come from: the cache, or the extractor itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from torch import Tensor

from edge_ad.distill.cache import ViewCache, targets_of
from edge_ad.distill.extractors import Extractor
from edge_ad.distill.group import Group
from edge_ad.distill.projection import Projection
from edge_ad.distill.views import ViewSet
from edge_ad_runtime.types import Image


class Batches(Protocol):
    """The batches of a training; each step's depends on the seed and its number only."""

    def __call__(self, step: int) -> tuple[Image, Tensor]:
        """This process's share of a step: ``uint8 NxHxWx3`` and targets ``NxCxhxw`` on any device."""
        ...


class CachedBatches:
    """Random views from the cache."""

    def __init__(self, cache: ViewCache, batch: int, seed: int, group: Group) -> None:
        self._cache, self._batch, self._seed, self._group = cache, batch, seed, group

    def __call__(self, step: int) -> tuple[Image, Tensor]:
        picks = np.random.default_rng((self._seed, step)).integers(0, len(self._cache), self._batch)
        share = self._batch // self._group.world
        return self._cache.read(np.sort(picks)[self._group.rank * share :][:share])


class OnlineBatches:
    """New views at every step, seen by the extractor as they come; the next step's are drawn meanwhile."""

    def __init__(
        self, extractor: Extractor, projection: Projection, views: ViewSet, batch: int, group: Group,
        pool: ThreadPoolExecutor,
    ) -> None:  # fmt: skip
        self._extractor, self._projection, self._views = extractor, projection, views
        self._batch, self._group, self._pool = batch, group, pool
        self._ahead: dict[int, list[Future[tuple[Image, Image]]]] = {}

    def __call__(self, step: int) -> tuple[Image, Tensor]:
        drawing = self._ahead.pop(step, None) or self._draw(step)
        self._ahead = {step + 1: self._draw(step + 1)}
        drawn = [future.result() for future in drawing]
        targets = targets_of(self._extractor, self._projection, [large for _, large in drawn])
        return np.stack([small for small, _ in drawn]), targets

    def _draw(self, step: int) -> list[Future[tuple[Image, Image]]]:
        share = self._batch // self._group.world
        first = step * self._batch + self._group.rank * share
        return [self._pool.submit(self._views.draw, i) for i in range(first, first + share)]


@contextmanager
def drawing_threads(share: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that decode and cut views, no more than a process's ``share`` of a batch; ended with the block."""
    pool = ThreadPoolExecutor(max(1, min(share, (os.cpu_count() or 2) // 2, 8)))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
