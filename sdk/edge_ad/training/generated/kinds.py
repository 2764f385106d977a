"""The kinds of generated images: each draws ``float32 HxWx3`` RGB of any positive scale."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.training.generated.colour import Palette, all_channels, look_up, ramp
from edge_ad.training.generated.fields import (
    any_field,
    network_features,
    octaves,
    standardize,
)
from edge_ad.training.generated.shapes import border_distance, power_law, stack_shapes
from edge_ad_runtime.types import FloatArray

_LETTERS = np.array(list(string.ascii_letters + string.digits))


@dataclass(frozen=True)
class Kind:
    """A way of drawing an image, and the share of the images that it draws."""

    name: str
    share: float
    draw: Callable[[np.random.Generator, int, int], FloatArray]


def leaves(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Dead leaves (Lee, Mumford, Huang 2001), each with its colours, its texture and its shading."""
    side = min(height, width)
    palette = Palette(rng)
    smallest = side * np.exp(rng.uniform(np.log(0.01), np.log(0.12)))
    largest = side * rng.uniform(0.15, 0.6)
    count = int(np.exp(rng.uniform(np.log(4), np.log(120))))
    radii = power_law(rng, count, float(smallest), float(max(largest, 2 * smallest)))
    if rng.random() < 0.5:
        radii = np.sort(radii)[::-1]
    labels = stack_shapes(rng, height, width, radii)
    first = palette.colours(count + 1)
    second = palette.near(first, float(rng.exponential(0.8)))
    # Each leaf is painted from its first to its second colour by one of a few textures.
    layers = 2
    owner = rng.integers(layers, size=count + 1)
    strength = rng.exponential(0.5, count + 1)
    weight = np.full((height, width), 0.3, np.float32)
    for k in range(layers):
        gain = np.where(owner == k, strength, 0).astype(np.float32)
        weight += look_up(gain, labels) * any_field(rng, height, width)
    np.clip(weight, -0.3, 1.3, weight)
    base = look_up(first, labels)
    base += look_up(second - first, labels) * all_channels(weight)
    if rng.random() < 0.4:
        base *= all_channels(_shading(rng, labels, count + 1))
    # No surface is without a grain of its own.
    grain = standardize(octaves(rng, height, width, rng.uniform(0.8, 1.6), 8))
    base *= all_channels(np.exp(grain * np.float32(rng.exponential(0.12))))
    base = np.maximum(base, np.float32(0.01))
    if rng.random() < 0.4:
        base = draw_marks(rng, base, palette, int(rng.integers(3, 20)))
    return base


def _shading(rng: np.random.Generator, labels: npt.NDArray[np.uint8], count: int) -> FloatArray:
    """Each leaf lit from another side, rounded towards its border, with a dark line where leaves meet."""
    height, width = labels.shape
    tilt = rng.normal(0, rng.uniform(0.2, 1.2), (2, count)).astype(np.float32) / min(height, width)
    y = (np.arange(height, dtype=np.float32) - height / 2)[:, None]
    x = (np.arange(width, dtype=np.float32) - width / 2)[None]
    light = look_up(tilt[0], labels) * x + look_up(tilt[1], labels) * y
    distance = border_distance(labels)
    reach = np.float32(1 / np.exp(rng.uniform(np.log(1.5), np.log(12))))
    light -= np.float32(rng.exponential(0.35)) * np.exp(-distance * reach)
    return np.asarray(np.exp(light.clip(-2, 1)), np.float32)


def clouds(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """``1 / f ** a`` noise with the channels correlated as in natural colours."""
    exponent = rng.uniform(0.7, 1.5)
    noise = octaves(rng, height, width, exponent, channels=3)
    noise /= max(float(noise.std()), 1e-6)
    palette = Palette(rng)
    first = palette.colours(1)
    log = np.log(palette.near(np.repeat(first, 3, 0), 1.0) / first)
    # The three noises steer luminance, yellow-blue and one free direction.
    log[0] = rng.uniform(0.3, 0.7)
    return _mixed(noise, log, first)


def _mixed(noise: FloatArray, mix: FloatArray, first: FloatArray) -> FloatArray:
    """The colour ``first`` changed by ``HxWx3`` noise; each row of ``mix`` is a change of log R, G, B."""
    log = np.asarray(cv2.transform(noise, np.ascontiguousarray(mix.T)), np.float32)
    return np.asarray(np.exp((log + np.log(first)).clip(-4, 1.5)), np.float32)


def textures(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """One or two textures over the whole image, coloured by ramps."""
    palette = Palette(rng)
    image = ramp(any_field(rng, height, width), palette.colours(int(rng.integers(2, 6))))
    if rng.random() < 0.6:
        other = ramp(any_field(rng, height, width), palette.colours(int(rng.integers(2, 6))))
        if rng.random() < 0.5:
            image = image * other * 3
        else:
            mask = standardize(octaves(rng, height, width, 1.5, 2, 64))
            blend = all_channels((0.5 + mask * np.float32(np.exp(rng.uniform(0, 3)))).clip(0, 1))
            image = image + (other - image) * blend
    return image


def network(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """A random generator network's output, its channels mixed to natural colours."""
    state = network_features(rng, height, width, 5)
    log = np.asarray(cv2.merge([standardize(state[..., c]) for c in range(3)]), np.float32).clip(-3, 3)
    palette = Palette(rng)
    first = palette.colours(1)
    mix = np.log(palette.near(np.repeat(first, 3, 0), 1.0) / first)
    mix[0] = rng.uniform(0.3, 0.7)
    return _mixed(log, mix, first)


def fractal(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """An iterated function system's attractor on a noise ground (Kataoka et al., arXiv 2101.08515)."""
    maps = int(rng.integers(2, 6))
    # Singular values below 1 make every map contract, so the attractor is bounded.
    turn = rng.uniform(0, 2 * np.pi, (2, maps))
    stretch = rng.uniform(0.3, 0.95, (maps, 2))
    linear = np.einsum("nij,nj,njk->nik", _rotations(turn[0]), stretch, _rotations(turn[1]))
    offset = rng.uniform(-1, 1, (maps, 2))
    # The larger a map's image, the more points it gets.
    odds = np.cumsum(np.abs(np.linalg.det(linear)) + 0.02)
    particles, rounds = 1024, 30
    choice = np.searchsorted(odds / odds[-1], rng.random((rounds, particles)))
    point = np.zeros((particles, 2))
    visited = np.empty((rounds, particles, 2))
    for i in range(rounds):
        point = np.einsum("nij,nj->ni", linear[choice[i]], point) + offset[choice[i]]
        visited[i] = point
    zoom = rng.uniform(0.15, 0.35) * min(height, width)
    row, column = (
        ((axis - axis.mean()) * (zoom / (axis.std() + 1e-3)) + size / 2).astype(int)
        for axis, size in ((visited[6:, :, 0].ravel(), height), (visited[6:, :, 1].ravel(), width))
    )
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index, last = (row * width + column)[inside], choice[6:].ravel()[inside]
    palette = Palette(rng)
    colours = palette.colours(maps)
    hits = np.bincount(index, minlength=height * width)
    inks = colours.T[:, last]
    paint = cv2.merge([_plane(np.bincount(index, ink, height * width), height, width) for ink in inks])
    sigma = float(rng.uniform(0.6, 1.2))
    density = np.asarray(cv2.GaussianBlur(_plane(hits, height, width), (0, 0), sigma), np.float32)
    cover = all_channels(1 - np.exp(-2 * density))
    body = cv2.GaussianBlur(paint, (0, 0), sigma) / all_channels(np.maximum(density, np.float32(1e-4)))
    ground = ramp(any_field(rng, height, width), palette.colours(3))
    return np.asarray(ground + (body - ground) * cover, np.float32)


def _plane(values: npt.NDArray[Any], height: int, width: int) -> FloatArray:
    return np.asarray(values.reshape(height, width), np.float32)


def _rotations(angle: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([c, -s], 1), np.stack([s, c], 1)], 1)


def drawing(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Lines, outlines, signs and writing on a ground."""
    palette = Palette(rng)
    noise = standardize(octaves(rng, height, width, rng.uniform(0.8, 1.6)))
    ground = ramp(noise * np.float32(rng.exponential(0.5)), palette.colours(3))
    return draw_marks(rng, ground, palette, int(rng.integers(8, 50)))


def draw_marks(rng: np.random.Generator, ground: FloatArray, palette: Palette, count: int) -> FloatArray:
    """Draw ``count`` words, lines, ellipses and rectangles on a picture."""
    # OpenCV writes text on 8-bit images only.
    scale_down = np.float32(255 / max(float(ground.max()), 1.0))
    image = (ground * scale_down).astype(np.uint8)
    height, width = image.shape[:2]
    side = min(height, width)
    inks = (palette.colours(4) * scale_down).clip(0, 255)
    for _ in range(count):
        ink = inks[rng.integers(4)].tolist()
        at = rng.integers(-side // 8, [width, height]).tolist()
        thickness = int(rng.integers(1, 2 + side // 64))
        what = rng.integers(4)
        if what == 0:
            text = "".join(rng.choice(_LETTERS, int(rng.integers(1, 9))))
            scale = side / 256 * float(np.exp(rng.uniform(-1.2, 1.0)))
            cv2.putText(image, text, at, int(rng.integers(8)), scale, ink, thickness)
        elif what == 1:
            steps = rng.normal(0, side / 8, (int(rng.integers(2, 8)), 2)).cumsum(0)
            line = (at + steps).astype(np.int32)
            cv2.polylines(image, [line], bool(rng.random() < 0.3), ink, thickness)
        elif what == 2:
            size = np.abs(rng.normal(0, side / 8, 2)).astype(int).tolist()
            cv2.ellipse(image, at, size, float(rng.uniform(0, 360)), 0, 360, ink, thickness)
        else:
            to = (at + rng.normal(0, side / 4, 2)).astype(int).tolist()
            cv2.rectangle(image, at, to, ink, thickness if rng.random() < 0.7 else cv2.FILLED)
    return image.astype(np.float32) / scale_down


def relief(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """A lit surface: balls, pillows or rough ground, with diffuse light and a highlight."""
    side = min(height, width)
    palette = Palette(rng)
    what = rng.integers(3)
    if what == 0:
        count = int(rng.integers(3, 60))
        radii = power_law(rng, count, 0.06 * side / np.sqrt(count / 10), 0.35 * side)
        labels = stack_shapes(rng, height, width, radii)
        level = np.minimum(border_distance(labels), np.float32(0.15 * side))
        surface = np.sqrt(level * np.float32(0.3 * side) + 1)
        colours = look_up(palette.colours(count + 1), labels)
    else:
        exponent = rng.uniform(1.6, 2.4)
        surface = standardize(octaves(rng, height, width, exponent, rng.choice([2, 4, 8])))
        surface *= np.float32(rng.uniform(0.03, 0.12) * side)
        colours = ramp(any_field(rng, height, width) * np.float32(rng.random()), palette.colours(3))
    surface += any_field(rng, height, width) * np.float32(rng.exponential(0.25))
    surface = np.asarray(cv2.GaussianBlur(surface, (0, 0), float(rng.uniform(0.8, 2.5))), np.float32)
    slope_x = np.asarray(cv2.Sobel(surface, cv2.CV_32F, 1, 0, scale=1 / 8), np.float32)
    slope_y = np.asarray(cv2.Sobel(surface, cv2.CV_32F, 0, 1, scale=1 / 8), np.float32)
    toward = rng.uniform(0, 2 * np.pi)
    lift = rng.uniform(0.5, 1.5)
    light = np.array([np.cos(toward), np.sin(toward), lift], np.float32) / np.float32(np.hypot(1, lift))
    length = np.sqrt(slope_x**2 + slope_y**2 + 1)
    facing = (light[2] - light[0] * slope_x - light[1] * slope_y) / length
    half = light + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    gloss = ((half[2] - half[0] * slope_x - half[1] * slope_y) / length).clip(0, 1)
    shine = np.float32(rng.exponential(0.3)) * gloss ** np.float32(np.exp(rng.uniform(1.5, 4.5)))
    ambient = np.float32(rng.uniform(0.15, 0.5))
    image = colours * all_channels(ambient + facing.clip(0, 1)) + all_channels(shine)
    return np.asarray(image, np.float32)


def collage(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Large things of several kinds before a ground of another: what a scene is at the coarsest scale."""
    side = min(height, width)
    count = int(rng.integers(2, 12))
    labels = stack_shapes(rng, height, width, power_law(rng, count, 0.1 * side, 0.6 * side))
    makers = (clouds, textures, network, relief)
    layers = [makers[rng.integers(len(makers))](rng, height, width) for _ in range(2)]
    owner = rng.integers(2, size=count + 1).astype(np.float32)
    tint = Palette(rng).colours(count + 1) / np.float32(0.35)
    layers[0] += (layers[1] - layers[0]) * all_channels(look_up(owner, labels))
    image = layers[0] * look_up(tint, labels)
    return np.asarray(image, np.float32)


KINDS: tuple[Kind, ...] = (
    Kind("leaves", 0.3, leaves),
    Kind("clouds", 0.02, clouds),
    Kind("textures", 0.15, textures),
    Kind("network", 0.02, network),
    Kind("fractal", 0.1, fractal),
    Kind("drawing", 0.25, drawing),
    Kind("relief", 0.06, relief),
    Kind("collage", 0.1, collage),
)
"""What :func:`~edge_ad.training.generated.generated_image` mixes; the shares add up to 1."""
