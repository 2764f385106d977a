"""Views and what the extractor sees in them, extracted once to disk."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from edge_ad.distill.extractors import Extractor
from edge_ad.distill.features import patch_features
from edge_ad.distill.group import Group
from edge_ad.distill.projection import BATCH, Projection
from edge_ad.distill.views import ViewSet
from edge_ad_runtime.errors import RunError
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.types import Image

# Views to a file: few enough that a crash loses seconds of work, and never more files than this open at once.
_SHARD = 4 * BATCH
_MOST_SHARDS = 256


class ViewCache:
    """``count`` views with their targets in a folder of shards, mapped into memory: the system keeps what fits.

    A shard is a ``.npy`` of records: ``view`` ``uint8 HxWx3`` and ``target`` ``float16 Cxhxw``.
    """

    def __init__(self, folder: Path, count: int, size: int, channels: int) -> None:
        self._folder, self._count = folder, count
        self.shard = BATCH * -(-max(_SHARD, -(-count // _MOST_SHARDS)) // BATCH)
        grid = size // 4
        self._record = np.dtype([("view", "u1", (size, size, 3)), ("target", "<f2", (channels, grid, grid))])
        self._open: dict[int, npt.NDArray[Any]] = {}

    def __len__(self) -> int:
        return self._count

    def path(self, shard: int) -> Path:
        return self._folder / f"{shard:05d}.npy"

    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        return [i for i in range(-(-self._count // self.shard)) if not self.path(i).exists()]

    def indices(self, shard: int) -> range:
        """The views of a shard."""
        return range(shard * self.shard, min((shard + 1) * self.shard, self._count))

    def write(self, shard: int, views: Sequence[Image], targets: Sequence[npt.NDArray[np.float16]]) -> None:
        """Write a shard, whole or not at all."""
        records = np.empty(len(views), self._record)
        records["view"], records["target"] = views, targets
        buffer = io.BytesIO()
        np.save(buffer, records, allow_pickle=False)
        write_atomically(self.path(shard), buffer.getvalue())

    def read(self, picks: npt.NDArray[np.int64]) -> tuple[Image, Tensor]:
        """The views ``picks``: ``uint8 NxHxWx3`` and ``float16 NxCxhxw``.

        Raises:
            RunError: a shard is missing or damaged.
        """
        rows = [self._shard(int(i) // self.shard)[int(i) % self.shard] for i in picks]
        targets = np.stack([row["target"] for row in rows])
        return np.stack([row["view"] for row in rows]), torch.from_numpy(targets)

    def _shard(self, number: int) -> npt.NDArray[Any]:
        if number not in self._open:
            path = self.path(number)
            try:
                records = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise RunError(
                    f"{path}: is missing or damaged ({error}); remove it and start again"
                ) from error
            if records.dtype != self._record or len(records) != len(self.indices(number)):
                raise RunError(f"{path}: does not hold these views; remove it and start again")
            self._open[number] = records
        return self._open[number]


def targets_of(extractor: Extractor, projection: Projection, images: Sequence[Image]) -> Tensor:
    """The teacher's targets ``float32 NxCxhxw`` for images at the extractor's size, on the extractor's device."""
    return projection(patch_features(extractor(images).tensors))


def extract(
    extractor: Extractor, projection: Projection, views: ViewSet, cache: ViewCache, name: str, group: Group,
    stop: StopRequest,
) -> bool:  # fmt: skip
    """Fill the cache, each process its share of the shards that are missing.

    Returns False when asked to stop before the end; another call goes on.
    """

    def one(shard: int) -> None:
        small: list[Image] = []
        targets: list[npt.NDArray[np.float16]] = []
        indices = cache.indices(shard)
        for start in range(indices.start, indices.stop, BATCH):
            drawn = [views.draw(i) for i in indices[start - indices.start :][:BATCH]]
            small += [view for view, _ in drawn]
            targets += list(
                targets_of(extractor, projection, [large for _, large in drawn]).half().cpu().numpy()
            )
            bar.update(len(drawn) * group.world)
        cache.write(shard, small, targets)

    missing = group.from_first(cache.missing)
    left = sum(len(cache.indices(i)) for i in missing)
    with tqdm(
        total=len(cache), initial=len(cache) - left, desc=name, unit="view", disable=not group.first
    ) as bar:
        return group.in_turns(missing, one, stop)
