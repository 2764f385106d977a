"""Defects of the demo's parts: each function damages a part in place and marks what it changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from examples.demo.part import CANVAS, INNER, OUTER, Floats, Part, cloud, photo_texture
from examples.demo.photographs import Photographs

Point: TypeAlias = npt.NDArray[np.float64]
Defect: TypeAlias = Callable[[Part, Photographs, np.random.Generator], None]

_STONE = np.array([1.0, 0.93, 0.85], np.float32)


def outer_chip(part: Part, photographs: Photographs, rng: np.random.Generator) -> None:
    """A piece broken out of the outer edge."""
    size = rng.uniform(24, 52)
    _break_out(part, photographs, rng, OUTER + 0.3 * size, size, through=0.35)


def inner_chip(part: Part, photographs: Photographs, rng: np.random.Generator) -> None:
    """A piece broken out of the edge of the centre hole."""
    size = rng.uniform(22, 44)
    _break_out(part, photographs, rng, INNER - 0.3 * size, size, through=0.35)


def pit(part: Part, photographs: Photographs, rng: np.random.Generator) -> None:
    """A hole in the surface where material did not fill the mould."""
    _break_out(
        part,
        photographs,
        rng,
        rng.uniform(INNER + 35, OUTER - 35),
        rng.uniform(10, 20),
        through=2,
        shade=0.11,
    )


def scratch(part: Part, photographs: Photographs, rng: np.random.Generator) -> None:
    """One stroke of something sharp, brighter than the surface and fading at its ends."""
    _scratches(part, rng, strokes=1, length=rng.uniform(80, 180))


def scuff(part: Part, photographs: Photographs, rng: np.random.Generator) -> None:
    """Several short strokes beside each other."""
    _scratches(part, rng, strokes=int(rng.integers(3, 6)), length=rng.uniform(45, 90))


def oil(part: Part, photographs: Photographs, rng: np.random.Generator) -> None:
    """A dark, glossy spot of oil."""
    spot = np.clip(_blob(_somewhere(part, rng), rng.uniform(26, 56), rng) * 4 + 0.5, 0, 1) * part.body
    absorbed = rng.uniform(0.55, 0.75) * np.array([0.92, 1.0, 1.08])
    part.reflectance *= (1 - spot[..., None] * absorbed).astype(np.float32)
    part.gloss += 0.04 * spot
    _mark(part, spot)


def grass_blade(part: Part, photographs: Photographs, rng: np.random.Generator) -> None:
    """A blade of dry grass lying on the part."""
    colour = (0.24, 0.27, 0.10)
    _lay_on(part, photographs.grass, rng, rng.uniform(70, 150), rng.uniform(6, 9), 0.2, colour)


def splinter(part: Part, photographs: Photographs, rng: np.random.Generator) -> None:
    """A splinter of wood lying on the part."""
    colour = (0.40, 0.24, 0.12)
    _lay_on(part, photographs.wood, rng, rng.uniform(40, 90), rng.uniform(8, 13), 0.03, colour)


KINDS: dict[str, tuple[Defect, ...]] = {
    "chip": (outer_chip, pit, inner_chip),
    "contamination": (oil, grass_blade, splinter),
    "scratch": (scratch, scuff),
}
"""The defects by the name of their folder."""


def _break_out(
    part: Part,
    photographs: Photographs,
    rng: np.random.Generator,
    radius: float,
    size: float,
    through: float,
    shade: float = 0.40,
) -> None:
    """Break a piece out; where the blob is deeper than ``through`` (0 to 1) nothing is left of the part."""
    blob = _blob(part.polar(radius, rng.uniform(0, 2 * math.pi)), size, rng)
    rough = photo_texture(photographs.gravel, rng, scale=0.8)
    broken = np.clip(blob * size / 2 + 0.5, 0, 1) * part.body
    gone = np.clip((blob - through) * size / 2 + 0.5, 0, 1) * part.body
    part.height += broken * (2 + rough - part.height)
    fresh = (shade * np.clip(1 + 0.2 * rough, 0.2, 1.9))[..., None] * _STONE
    part.reflectance += broken[..., None] * (fresh - part.reflectance)
    part.reflectance += gone[..., None] * (part.belt - part.reflectance)
    part.height *= 1 - gone
    part.gloss *= 1 - broken
    part.body *= 1 - gone
    _mark(part, np.asarray(broken, np.float32))


def _scratches(part: Part, rng: np.random.Generator, strokes: int, length: float) -> None:
    place = np.array(_somewhere(part, rng))
    heading = rng.uniform(0, 2 * math.pi)
    stroke = np.zeros((CANVAS, CANVAS), np.float32)
    for _ in range(strokes):
        along = _direction(heading + rng.normal(0, 0.10))
        across = _direction(heading + math.pi / 2)
        begin = place - along * length / 2 + across * rng.normal(0, 8) * (strokes > 1)
        middle = begin + along * length / 2 + across * rng.normal(0, 0.10) * length
        _draw_curve(stroke, begin, middle, begin + along * length, rng.uniform(3.5, 6.5))
    stroke = cv2.GaussianBlur(stroke, (0, 0), 0.8) * part.body
    stroke *= np.clip(0.85 + 0.25 * cloud(rng, 24), 0.3, 1)
    part.height -= 3 * stroke
    part.reflectance += (rng.uniform(0.55, 0.9) * stroke)[..., None] * (0.72 * _STONE - part.reflectance)
    _mark(part, np.asarray(stroke > 0.2, np.float32))


def _lay_on(
    part: Part,
    texture: Floats,
    rng: np.random.Generator,
    length: float,
    width: float,
    bend: float,
    colour: tuple[float, float, float],
) -> None:
    """Lay a thin body with its shadow on the part; it may reach over the part's edge."""
    heading = rng.uniform(0, 2 * math.pi)
    along, across = _direction(heading), _direction(heading + math.pi / 2)
    place = np.array(_somewhere(part, rng))
    body = np.zeros((CANVAS, CANVAS), np.float32)
    _draw_curve(
        body,
        place - along * length / 2,
        place + across * rng.normal(0, bend) * length,
        place + along * length / 2,
        width,
    )
    shadow = cv2.GaussianBlur(np.roll(body, (5, 4), (0, 1)), (0, 0), 3)
    part.reflectance *= (1 - 0.6 * shadow * (1 - body))[..., None]
    grain = photo_texture(texture, rng, scale=0.6)
    surface = np.clip(1 + 0.2 * grain, 0.3, 1.7)[..., None] * np.array(colour, np.float32)
    part.reflectance += body[..., None] * (surface - part.reflectance)
    part.height += cv2.GaussianBlur(body, (0, 0), 2) * 5
    _mark(part, body)


def _somewhere(part: Part, rng: np.random.Generator) -> tuple[float, float]:
    return part.polar(rng.uniform(INNER + 35, OUTER - 35), rng.uniform(0, 2 * math.pi))


def _direction(angle: float) -> Point:
    return np.array([np.cos(angle), np.sin(angle)])


def _mark(part: Part, changed: Floats) -> None:
    np.maximum(part.defect, changed, out=part.defect)


def _blob(centre: tuple[float, float], radius: float, rng: np.random.Generator) -> Floats:
    """An irregular spot: 1 in its centre, 0 on its edge, negative outside; ``float32 CANVAS x CANVAS``."""
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)
    stretch, turn = rng.uniform(0.8, 1.3), rng.uniform(0, math.pi)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    u = (dx * math.cos(turn) + dy * math.sin(turn)) * stretch
    v = (dy * math.cos(turn) - dx * math.sin(turn)) / stretch
    ragged = 0.16 * cloud(rng, max(16, int(radius)), octaves=2)
    return np.asarray(1 - np.hypot(u, v) / radius + ragged, np.float32)


def _draw_curve(canvas: Floats, begin: Point, middle: Point, end: Point, width: float) -> None:
    """Draw a quadratic Bezier curve of the given width, thin at both ends."""
    steps = 48
    t = np.linspace(0, 1, steps)[:, None]
    points = (1 - t) ** 2 * begin + 2 * t * (1 - t) * middle + t**2 * end
    # Sixteenths of a pixel, OpenCV's fixed point.
    fixed = np.round(points * 16).astype(int).tolist()
    for i in range(steps - 1):
        share = math.sin(math.pi * (i + 0.5) / steps) ** 0.5
        cv2.line(canvas, fixed[i], fixed[i + 1], 1.0, max(1, round(width * share)), cv2.LINE_AA, 4)
