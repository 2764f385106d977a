"""Statistics of the activations over calibration images, and the ranges that an integer grid gets from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from edge_ad_converters.graph import with_outputs
from edge_ad_runtime.types import Image

RangeMethod = Literal["min-max", "percentile", "mse", "entropy"]
RANGE_METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)

BINS = 4096
# Share of the values that the method "percentile" cuts off at either end.
TAIL = 1e-4
# Values of one tensor and image that go into its histogram; more cost time and tell little.
_SAMPLES = 50_000
_LEVELS = 256
# The methods "mse" and "entropy" try ranges of this share of the full one and up.
_SMALLEST_SHARE = 0.2
_TRIED = 80


@dataclass(frozen=True)
class Statistics:
    """What a ``1xCxhxw`` tensor did on the calibration images.

    ``low`` and ``high`` are its extremes, ``channel_reach`` (``float64 C``) the mean over the images of each
    channel's largest absolute value, ``histogram`` (``int64`` of :data:`BINS`) counts a sample of its values
    between ``low`` and ``high``; on the good images alone, ``channel_mean`` (``float64 C``) is the mean of each
    channel and ``image_reach`` (``float64 N``) each image's largest absolute value.
    """

    low: float
    high: float
    channel_mean: npt.NDArray[np.float64]
    channel_reach: npt.NDArray[np.float64]
    image_reach: npt.NDArray[np.float64]
    histogram: npt.NDArray[np.int64]


class Observer:
    """The float graph with the values of inner tensors as outputs."""

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str]) -> None:
        self.tensors = list(dict.fromkeys(tensors))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        encoded = with_outputs(model, self.tensors).SerializeToString()
        self._session = ort.InferenceSession(
            encoded,
            options,
            providers=["CPUExecutionProvider"],
            # As the engine of the target does it.
            disabled_optimizers=("WeightBiasQuantization",),
        )

    def values(self, batch: Image) -> dict[str, npt.NDArray[np.float32]]:
        """Each tensor, ``float32 1xCxhxw``, for one ``uint8 1xHxWx3`` batch."""
        return dict(zip(self.tensors, self._session.run(self.tensors, {"image": batch}), strict=True))


def observe(
    model: onnx.ModelProto, tensors: Sequence[str], good: Sequence[Image], damaged: Sequence[Image] = ()
) -> dict[str, Statistics]:
    """Statistics of tensors while the float graph runs, twice, on ``uint8 1xHxWx3`` batches.

    Args:
        model: the float graph.
        tensors: names of ``1xCxhxw`` tensors in it.
        good: images of good parts, at least one.
        damaged: further images that the ranges should hold.
    """
    observer = Observer(model, tensors)
    low = dict.fromkeys(observer.tensors, np.inf)
    high = dict.fromkeys(observer.tensors, -np.inf)
    means: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in observer.tensors}
    reaches: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in observer.tensors}
    for number, batch in enumerate((*good, *damaged)):
        for name, value in observer.values(batch).items():
            highest, lowest = value.max((0, 2, 3)), value.min((0, 2, 3))
            low[name], high[name] = min(low[name], float(lowest.min())), max(high[name], float(highest.max()))
            reaches[name].append(np.maximum(highest, -lowest).astype(np.float64))
            if number < len(good):
                means[name].append(value.mean((0, 2, 3), dtype=np.float64))
    histograms = {name: np.zeros(BINS, np.int64) for name in observer.tensors}
    for batch in (*good, *damaged):
        for name, value in observer.values(batch).items():
            sample = value.ravel()[:: max(1, value.size // _SAMPLES)].astype(np.float64)
            histograms[name] += _histogram(sample, low[name], high[name])
    return {
        name: Statistics(
            low[name],
            high[name],
            np.mean(means[name], axis=0),
            np.mean(reaches[name], axis=0),
            np.asarray([reach.max() for reach in reaches[name][: len(good)]]),
            histograms[name],
        )
        for name in observer.tensors
    }


def find_range(statistics: Statistics, method: RangeMethod) -> tuple[float, float]:
    """The range that a method gives an 8-bit grid; it always holds 0.

    - ``min-max``: all that was seen.
    - ``percentile``: all but :data:`TAIL` of the values at either end.
    - ``mse``: the least mean square of rounding and clipping together.
    - ``entropy``: the least Kullback-Leibler divergence of the rounded from the original distribution
      (S. Migacz, 8-bit Inference with TensorRT, GTC 2017), here for a grid of 256 levels.

    ``mse`` and ``entropy`` shrink both ends in proportion.
    """
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)
    if method == "min-max" or not high > low:
        return low, high
    width = (statistics.high - statistics.low) / BINS
    counts = statistics.histogram.astype(np.float64)
    centres = (statistics.low + width * (np.arange(BINS) + 0.5)).astype(np.float64)
    if method == "percentile":
        below = np.cumsum(counts) / counts.sum()
        first = int(np.searchsorted(below, TAIL, "right"))
        last = int(np.searchsorted(below, 1 - TAIL, "left"))
        return (
            min(0.0, statistics.low + width * first),
            max(0.0, min(statistics.high, statistics.low + width * (last + 1))),
        )
    cost = _mean_square if method == "mse" else _divergence
    shares = np.linspace(_SMALLEST_SHARE, 1, _TRIED)
    best = min((float(s) for s in shares), key=lambda s: cost(counts, centres, low * s, high * s))
    return low * best, high * best


def _histogram(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.int64]:
    places = (values - low) * (BINS / max(high - low, 1e-30))
    return np.bincount(np.clip(places, 0, BINS - 1).astype(np.int64), minlength=BINS)


def _mean_square(
    counts: npt.NDArray[np.float64], centres: npt.NDArray[np.float64], low: float, high: float
) -> float:
    step = (high - low) / (_LEVELS - 1)
    outside = np.maximum(low - centres, 0) + np.maximum(centres - high, 0)
    # Within the grid a value is rounded by at most half a step: variance step^2 / 12. Zero is met exactly, and
    # after a ReLU much is zero.
    inside = (outside == 0) & (np.abs(centres) > step / 2)
    return float((counts * (outside**2 + inside * step**2 / 12)).sum())


def _divergence(
    counts: npt.NDArray[np.float64], centres: npt.NDArray[np.float64], low: float, high: float
) -> float:
    """Of the distribution on the grid from the original one, whose tails are moved to the ends of the grid."""
    clipped = np.clip(centres, low, high)
    width = centres[1] - centres[0]
    places = np.rint((clipped - centres[0]) / width).astype(int)
    original = np.bincount(places, counts, minlength=len(centres))
    seen = (centres >= low) & (centres <= high) & (counts > 0)
    levels = np.rint((clipped - low) / (high - low) * (_LEVELS - 1)).astype(int)
    # Each level's counts are spread evenly over the bins in it that held something.
    totals = np.bincount(levels[seen], counts[seen], minlength=_LEVELS)
    members = np.bincount(levels[seen], minlength=_LEVELS)
    rounded = np.zeros_like(original)
    rounded[seen] = totals[levels[seen]] / members[levels[seen]]
    p, q = original / original.sum(), rounded / max(rounded.sum(), 1e-30)
    held = p > 0
    return float((p[held] * np.log(p[held] / np.maximum(q[held], 1e-12))).sum())
