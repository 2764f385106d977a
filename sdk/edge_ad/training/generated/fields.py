"""Scalar random fields, ``float32 HxW`` of about mean 0 and deviation 1: the textures of the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np

from edge_ad_runtime.types import FloatArray

FieldMaker: TypeAlias = Callable[[np.random.Generator, int, int], FloatArray]


def standardize(field: FloatArray) -> FloatArray:
    """Mean 0 and deviation 1; a constant field becomes 0."""
    mean, deviation = cv2.meanStdDev(field)
    return np.asarray((field - mean.item()) * (1 / max(deviation.item(), 1e-6)), np.float32)


def enlarge(field: FloatArray, height: int, width: int) -> FloatArray:
    """Cubic interpolation to ``height x width``."""
    return np.asarray(cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def white(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """White noise of mean 0 and deviation 1; ``float32``, uniform in 256 steps, which is cheap to draw."""
    count = int(np.prod(shape))
    noise: FloatArray = np.frombuffer(rng.bytes(count), np.uint8).astype(np.float32)
    noise -= np.float32(127.5)
    noise *= np.float32(1 / 73.9)
    return noise.reshape(shape)


def octaves(
    rng: np.random.Generator,
    height: int,
    width: int,
    exponent: float,
    coarsest: float = 2.0,
    finest: float = np.inf,
    channels: int = 1,
    stretch: float = 1.0,
) -> FloatArray:
    """Noise with an amplitude spectrum of about ``1 / f ** exponent``, as a sum of enlarged random grids.

    ``coarsest`` and ``finest`` are cells along the shorter side; ``stretch`` > 1 makes the cells wider than
    high. ``HxW``, or ``HxWxC`` for more than one channel; not standardized.
    """
    side = min(height, width)
    tail = () if channels == 1 else (channels,)
    total: FloatArray | None = None
    cells = coarsest
    while True:
        rows = min(height, max(2, round(cells * height / side)))
        columns = min(width, max(2, round(cells * width / side / stretch)))
        # An octave of f ** -a noise in two dimensions has a deviation proportional to f ** (1 - a).
        grid = white(rng, (rows, columns, *tail))
        grid *= np.float32(cells ** (1 - exponent))
        if total is not None:
            grid += enlarge(total, rows, columns)
        total = grid
        if 2 * cells > min(finest, side):
            return total if (rows, columns) == (height, width) else enlarge(total, height, width)
        cells *= 2


def coordinates(rng: np.random.Generator, height: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Rotated pixel coordinates, at times seen in perspective or warped."""
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    y = (np.arange(height, dtype=np.float32) - height / 2)[:, None]
    x = (np.arange(width, dtype=np.float32) - width / 2)[None]
    if rng.random() < 0.3:
        # A plane that recedes to the top: the scale falls with the height in the picture.
        depth = 1 / (1 + rng.uniform(0.2, 0.8) * y / height)
        x, y = x * depth, y * depth
    u, v = x * c + y * s, y * c - x * s
    if rng.random() < 0.6:
        bend = octaves(rng, height, width, 2.0, 2, 16, channels=2)
        bend *= np.float32(0.02 * min(height, width) * rng.exponential())
        u, v = u + bend[..., 0], v + bend[..., 1]
    return u, v


def clouds(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """``1 / f ** a`` noise, a from 0.5 to 1.6, at times stretched along a direction."""
    stretch = float(np.exp(abs(0.7 * rng.standard_normal())))
    noise = octaves(rng, height, width, rng.uniform(0.5, 1.6), 2, stretch=stretch)
    return standardize(noise)


def ridges(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Creases: the folded zero lines of smooth noise (ridged noise)."""
    noise = standardize(octaves(rng, height, width, rng.uniform(0.9, 1.6), rng.choice([2, 4, 8])))
    return standardize(-(np.abs(noise) ** np.float32(rng.uniform(0.4, 1.0))))


def spots(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Thresholded band-pass noise: blotches and labyrinths, as reaction and diffusion leave them."""
    side = min(height, width)
    cells = float(np.exp(rng.uniform(np.log(4), np.log(max(5, side / 3)))))
    noise = standardize(octaves(rng, height, width, 0.5, cells, 1.9 * cells))
    return standardize(np.tanh((noise - rng.uniform(-0.8, 0.8)) * rng.uniform(1, 6)))


def grating(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Stripes: sinusoidal to square, of one or two periods."""
    u, _ = coordinates(rng, height, width)
    wave = np.sin(u * np.float32(2 * np.pi / _period(rng)))
    if rng.random() < 0.4:
        wave += np.sin(u * np.float32(2 * np.pi / _period(rng))) * np.float32(rng.random())
    return standardize(np.tanh((wave - rng.uniform(-0.6, 0.6)) * rng.uniform(0.5, 6)))


def checker(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Checkers, tiles with joints, and dots on a grid."""
    u, v = coordinates(rng, height, width)
    scale = np.float32(np.pi / _period(rng))
    a, b = np.sin(u * scale), np.sin(v * (scale * np.float32(rng.uniform(0.5, 1.0))))
    kind = rng.integers(3)
    wave = a * b if kind == 0 else np.minimum(np.abs(a), np.abs(b)) - 0.15 if kind == 1 else a + b - 1
    return standardize(np.tanh(wave * rng.uniform(1.5, 8)))


def weave(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Two sets of threads that pass over and under each other."""
    u, v = coordinates(rng, height, width)
    scale = np.float32(np.pi / _period(rng))
    a, b = np.sin(u * scale), np.sin(v * scale)
    over = np.sin(u * scale / 2 + np.float32(0.8)) * np.sin(v * scale / 2)
    return standardize(np.where(over > 0, np.abs(a), np.float32(rng.uniform(0.4, 1.0)) * np.abs(b)))


def cells(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Voronoi cells: flat, domed or outlined."""
    count = int(np.exp(rng.uniform(np.log(12), np.log(max(16, height * width / 60)))))
    seeds = np.ones((height, width), np.uint8)
    seeds[rng.integers(height, size=count), rng.integers(width, size=count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    domed = -standardize(np.asarray(distance, np.float32))
    flat = np.take(rng.standard_normal(int(labels.max()) + 1, np.float32), np.asarray(labels, np.int32))
    mix = np.float32(rng.random())
    return standardize(mix * flat + (1 - mix) * domed)


def strokes(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Brush strokes, fibres, hair, wood: noise stretched along bent lines."""
    side = max(height, width)
    stretch = float(np.exp(rng.uniform(np.log(3), np.log(20))))
    base = octaves(rng, side, side, rng.uniform(0.2, 1.2), rng.choice([8, 16, 32]), stretch=stretch)
    u, v = coordinates(rng, height, width)
    bent = cv2.remap(base, u + side / 2, v + side / 2, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return standardize(np.asarray(bent, np.float32))


def network(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """One output of a random convolutional generator; see :func:`network_features`."""
    return standardize(network_features(rng, height, width, 4)[..., 0])


def network_features(rng: np.random.Generator, height: int, width: int, channels: int) -> FloatArray:
    """The output of a random generator network, ``HxWxC``: noise enlarged, mixed and rectified per octave.

    Random generators of this kind have natural statistics without training (Baradad et al.,
    arXiv 2106.05963, section on StyleGAN).
    """
    cells, side = 4, min(height, width)
    exponent = rng.uniform(0.9, 1.7)
    slope = np.float32(rng.uniform(0.05, 0.4))
    state = rng.standard_normal((cells, cells, channels), np.float32)
    while True:
        rows, columns = round(cells * height / side), round(cells * width / side)
        state = enlarge(state, rows, columns) + np.float32(
            1.5 * (cells / 4) ** (1 - exponent) * rng.random()
        ) * white(rng, (rows, columns, channels))
        mix = rng.standard_normal((channels, channels)).astype(np.float32) / np.float32(np.sqrt(channels))
        state = (state.reshape(-1, channels) @ mix).reshape(state.shape)
        state = np.maximum(state, slope * state)
        state *= np.float32(1 / max(float(np.sqrt(np.vdot(state, state) / state.size)), 1e-6))
        if cells >= side:
            return np.asarray(state, np.float32)
        cells = min(2 * cells, side)


def _period(rng: np.random.Generator) -> float:
    """In pixels, 3 to 60, as many below 13 as above."""
    return float(np.exp(rng.uniform(np.log(3), np.log(60))))


FIELDS: tuple[tuple[FieldMaker, float], ...] = (
    (clouds, 4), (ridges, 1), (spots, 1), (grating, 1), (checker, 0.6), (weave, 0.5), (cells, 1.5),
    (strokes, 2), (network, 2),
)  # fmt: skip
"""The fields with the weights by which :func:`any_field` takes them."""

_CUMULATIVE = np.cumsum([weight for _, weight in FIELDS]) / sum(weight for _, weight in FIELDS)


def any_field(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """One of :data:`FIELDS` at random."""
    make, _ = FIELDS[int(np.searchsorted(_CUMULATIVE, rng.random(), "right"))]
    field = make(rng, height, width)
    if rng.random() < 0.6:
        # Contrast that varies from place to place gives natural, heavy-tailed statistics (Wainwright and
        # Simoncelli 2000, Gaussian scale mixtures).
        contrast = octaves(rng, height, width, 1.5, 2, 16)
        field *= np.exp((np.float32(rng.uniform(0.3, 1.5)) * contrast).clip(-3, 1))
    return field
