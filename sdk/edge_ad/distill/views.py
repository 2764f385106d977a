"""Random views of the distillation images, and what the extractor sees in them, extracted once to disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from edge_ad.distill.extractors import Extractor, patch_features
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.images import read_image
from edge_ad_runtime.preprocess import resize
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.types import Image

_BATCH = 8
# Extracted views up to this size are kept in memory while training; larger sets stay on disk.
_MEMORY_BYTES = 4 << 30
_SCALES = (0.6, 1.0)
_GRAYSCALE = 0.15


@dataclass(frozen=True)
class ViewSet:
    """``count`` views of ``size`` px, cut from ``images`` in turn; view ``i`` depends on the seed and ``i`` only."""

    images: tuple[Path, ...]
    count: int
    size: int
    seed: int

    def draw(self, index: int) -> tuple[Image, Image]:
        """The view as the PDN sees it (``size``) and as the extractor does (twice that), ``uint8 HxWx3``.

        A square of 0.6 to 1 times the image's shorter side, mirrored half of the time, grey in 15 %: the
        paper's 10 % raised, because industrial cameras are often monochrome.
        """
        rng = np.random.default_rng((self.seed, index))
        image = read_image(self.images[index % len(self.images)])
        height, width = image.shape[:2]
        side = max(1, round(min(height, width) * rng.uniform(*_SCALES)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = image[top : top + side, left : left + side]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < _GRAYSCALE:
            grey = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY)
            crop = np.repeat(grey[:, :, None], 3, axis=2)
        crop = np.ascontiguousarray(crop)
        return resize(crop, self.size, self.size), resize(crop, 2 * self.size, 2 * self.size)


@dataclass(frozen=True)
class Projection:
    """A linear map from the extractor's channels to the teacher's: ``matrix @ (features - mean)``.

    ``matrix`` is ``float32 CxF``, ``mean`` ``float32 F``; ``explained`` is the share of the standardized
    features' variance that the C outputs keep.
    """

    mean: Tensor
    matrix: Tensor
    explained: float

    def __call__(self, features: Tensor) -> Tensor:
        """``NxFxhxw`` to ``NxCxhxw``."""
        offset = -(self.matrix @ self.mean)
        return torch.nn.functional.conv2d(features, self.matrix[:, :, None, None], offset)


def fit_projection(
    extractor: Extractor, views: ViewSet, channels: int, method: str, sample: int
) -> Projection:
    """Fit the projection on the first ``sample`` views.

    ``pca`` keeps the leading principal directions of the standardized channels, scaled together so that
    the mean variance of an output is 1: a narrow teacher then spends its channels where the features
    vary. ``pool`` averages neighbouring channels as PatchCore and the paper do, each output standardized.
    """
    count, mean, scatter = 0, torch.zeros(0), torch.zeros(0)
    for start in tqdm(range(0, sample, _BATCH), desc="statistics", unit="batch"):
        batch = [views.draw(i)[1] for i in range(start, min(start + _BATCH, sample))]
        # Neighbouring cells overlap and tell little new: every second one in each direction is enough.
        cells = patch_features(*extractor(batch))[:, :, ::2, ::2].permute(1, 0, 2, 3).flatten(1).double()
        # Chan, Golub, LeVeque 1979: merge means and scatter matrices without cancellation.
        new, new_mean = cells.shape[1], cells.mean(1)
        centred = (cells - new_mean[:, None]).float()
        new_scatter = (centred @ centred.T).double()
        if count:
            shift = new_mean - mean
            scatter = scatter + new_scatter + torch.outer(shift, shift) * (count * new / (count + new))
            mean = mean + shift * (new / (count + new))
        else:
            mean, scatter = new_mean, new_scatter
        count += new
    covariance = scatter / (count - 1)
    std = covariance.diagonal().sqrt()
    correlation = covariance / torch.outer(std, std)
    if method == "pca":
        values, vectors = torch.linalg.eigh(correlation)
        values, vectors = values.flip(0)[:channels], vectors.flip(1)[:, :channels]
        matrix = vectors.T / std / values.mean().sqrt()
        explained = float(values.sum() / correlation.trace())
    else:
        eye = torch.eye(len(std), dtype=torch.double)
        pool = torch.nn.functional.adaptive_avg_pool1d(eye[None], channels)[0].T
        variance = (pool @ covariance @ pool.T).diagonal()
        matrix = pool / variance.sqrt()[:, None]
        explained = float((matrix @ covariance @ matrix.T).trace() / len(std))
    return Projection(mean.float(), matrix.float(), explained)


@dataclass(frozen=True)
class ViewCache:
    """Views (``uint8 NxHxWx3``) and their targets (``float16 NxCxhxw``), in memory or mapped from a folder."""

    images: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.float16]


def extract(
    extractor: Extractor, projection: Projection, views: ViewSet, folder: Path, stop: StopRequest
) -> ViewCache | None:
    """Extract the targets of all views into ``folder``, going on where an earlier call stopped.

    Returns None when asked to stop before the end.
    """
    grid, channels = views.size // 4, len(projection.matrix)
    images = _mapped(folder / "views.npy", (views.count, views.size, views.size, 3), np.uint8)
    targets = _mapped(folder / "targets.npy", (views.count, channels, grid, grid), np.float16)
    marker = folder / "extracted"
    done = int(marker.read_text()) if marker.exists() else 0
    with tqdm(total=views.count, initial=done, desc="features", unit="view") as progress:
        while done < views.count:
            if stop.requested:
                return None
            drawn = [views.draw(i) for i in range(done, min(done + _BATCH, views.count))]
            features = patch_features(*extractor([large for _, large in drawn]))
            end = done + len(drawn)
            images[done:end] = np.stack([small for small, _ in drawn])
            targets[done:end] = projection(features).numpy().astype(np.float16)
            progress.update(end - done)
            done = end
            if done % (_BATCH * 16) == 0 or done == views.count:
                images.flush()
                targets.flush()
                write_atomically(marker, str(done).encode())
    if images.nbytes + targets.nbytes > _MEMORY_BYTES:
        return ViewCache(images, targets)
    return ViewCache(np.array(images), np.array(targets))


def _mapped(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.memmap[tuple[int, ...], np.dtype]:
    mode = "r+" if path.exists() else "w+"
    return np.lib.format.open_memmap(path, mode, np.dtype(dtype), shape)
