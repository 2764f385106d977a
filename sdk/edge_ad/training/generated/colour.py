"""Colours as scenes have them: log-normal intensities, little and mostly yellow-blue chroma."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.types import FloatArray

# Natural colours vary most in luminance, less from yellow to blue, least from green to magenta (Ruderman,
# Cronin, Chiao 1998). Rows: the change of log R, G, B along each axis.
_AXES = np.array([[1.0, 1.0, 1.0], [0.9, 0.15, -1.05], [0.45, -0.55, 0.1]], np.float32)


class Palette:
    """The colours of one image: a common illuminant, a common saturation, and their spread."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._spread = 0.5 * np.exp(0.4 * rng.standard_normal())
        grey = rng.random() < 0.15
        saturation = 0.02 if grey else 0.16 * np.exp(0.6 * rng.standard_normal())
        self._scale = np.array([self._spread, saturation, 0.5 * saturation], np.float32)
        self._cast = np.array([0.0, *(rng.normal(0.35, 0.8), rng.normal(0, 0.7))], np.float32) * self._scale

    def colours(self, count: int) -> FloatArray:
        """``count`` colours, ``float32 count x 3`` RGB; positive, median intensity about 0.35."""
        # Student's t: most colours are dull, a few vivid.
        draws = self._rng.standard_t(4, (count, 3)).astype(np.float32).clip(-4, 4)
        return self._rgb(self._cast + draws * self._scale)

    def near(self, colours: FloatArray, distance: float) -> FloatArray:
        """A neighbour of each colour: ``distance`` times the palette's spread away."""
        draws = self._rng.standard_normal(colours.shape).astype(np.float32)
        return np.asarray(colours * np.exp((draws * self._scale * distance) @ _AXES), np.float32)

    @staticmethod
    def _rgb(axes: npt.NDArray[np.floating]) -> FloatArray:
        return np.asarray(0.35 * np.exp((axes @ _AXES).clip(-2.5, 1.2)), np.float32)


def ramp(field: FloatArray, stops: FloatArray) -> FloatArray:
    """Colour a scalar field: its range of ±2 runs through the stops; ``float32 HxWx3``."""
    steps = 256
    at = np.linspace(0, len(stops) - 1, steps)
    table = np.stack([np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)], 1)
    index = ((field + 2) * (steps / 4)).clip(0, steps - 1).astype(np.uint8)
    return look_up(table.astype(np.float32), index)


def look_up(table: FloatArray, index: npt.NDArray[np.uint8]) -> FloatArray:
    """``table[index]`` for a table of at most 256 numbers or colours; several times as fast as numpy."""
    whole = np.zeros((1, 256, *table.shape[1:]), np.float32)
    whole[0, : len(table)] = table
    return np.asarray(cv2.LUT(cv2.merge([index] * 3) if table.ndim == 2 else index, whole), np.float32)


def all_channels(field: FloatArray) -> FloatArray:
    """``HxW`` to ``HxWx3`` with equal channels; numpy's broadcasting over a last axis of 3 is slow."""
    return np.asarray(cv2.merge([field] * 3), np.float32)
