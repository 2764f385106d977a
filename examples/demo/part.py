"""One part under an inspection camera: a moulded friction ring on a conveyor belt, drawn from photographs.

The ring is a height map and a reflectance map; a lamp shades it, it throws a shadow on the belt, and a
camera with blur, vignetting and noise looks at it. Everything is drawn at twice the picture's size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from examples.demo.photographs import Photographs

Floats = npt.NDArray[np.float32]

SIZE = 320
"""Width and height of a picture in pixels."""
CANVAS = 2 * SIZE
"""Width and height of the drawing in pixels."""

OUTER, INNER = 244.0, 86.0
_BEVEL = 16.0
_RIVETS, _RIVET_CIRCLE, _RIVET_RADIUS = 6, 166.0, 18.0
_GROOVES, _GROOVE_WIDTH = 3, 15.0
# Reflectance in RGB, 0 to 1.
_RING_COLOUR = np.array([0.36, 0.32, 0.28], np.float32)
_BELT_COLOUR = np.array([0.045, 0.075, 0.085], np.float32)


@dataclass(frozen=True)
class Lamp:
    """The light: brightness, colour (RGB gains), where it comes from, and how unevenly it falls.

    ``azimuth`` is in degrees, 0 from the right and 90 from the top; ``slope`` the relative difference
    between the lit and the far side of the picture.
    """

    brightness: float
    colour: tuple[float, float, float]
    azimuth: float
    slope: float


LAMP = Lamp(brightness=1.0, colour=(1.0, 1.0, 1.0), azimuth=125.0, slope=0.10)
"""The lamp under which the training images are taken."""
NEW_LAMP = Lamp(brightness=0.93, colour=(1.04, 1.0, 0.95), azimuth=120.0, slope=0.14)
"""The lamp after maintenance: a little darker and warmer, not mounted quite where it was."""


@dataclass
class Part:
    """A part before the picture is taken: maps ``CANVAS x CANVAS``, which defects change in place.

    ``belt`` is the empty belt's reflectance; ``height`` is in canvas pixels, 0 at the ring's outline;
    ``reflectance`` is RGB, 0 to 1; ``body`` is 1 on the ring; ``gloss`` is the share of mirrored light; ``defect`` marks what a
    defect changed. ``centre`` (x, y) and ``angle`` (radians) say where the ring lies.
    """

    belt: Floats
    height: Floats
    reflectance: Floats
    body: Floats
    gloss: Floats
    defect: Floats
    centre: tuple[float, float]
    angle: float

    def polar(self, radius: float, angle: float) -> tuple[float, float]:
        """The canvas point (x, y) at a radius and an angle in the ring's own frame."""
        total = self.angle + angle
        return (
            self.centre[0] + radius * math.cos(total),
            self.centre[1] + radius * math.sin(total),
        )


def make_part(photographs: Photographs, rng: np.random.Generator) -> Part:
    """A good ring, with the tolerances that good rings have, on its place on the belt."""
    centre = (CANVAS / 2 + rng.normal(0, 3), CANVAS / 2 + rng.normal(0, 3))
    belt = _belt(photographs, rng)
    part = Part(
        belt=belt,
        height=np.zeros((CANVAS, CANVAS), np.float32),
        reflectance=belt.copy(),
        body=np.zeros((CANVAS, CANVAS), np.float32),
        gloss=np.full((CANVAS, CANVAS), 0.02, np.float32),
        defect=np.zeros((CANVAS, CANVAS), np.float32),
        centre=centre,
        angle=math.radians(rng.normal(0, 1.2)),
    )
    _mould(part, photographs, rng)
    return part


def _mould(part: Part, photographs: Photographs, rng: np.random.Generator) -> None:
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)
    dx, dy = x - part.centre[0], y - part.centre[1]
    radius = np.hypot(dx, dy)
    outer, inner = OUTER * rng.normal(1, 0.003), INNER * rng.normal(1, 0.004)
    # Distance to the nearest edge, positive inside the ring.
    inside = np.minimum(outer - radius, radius - inner)
    for i in range(_RIVETS):
        cx, cy = part.polar(_RIVET_CIRCLE, 2 * np.pi * i / _RIVETS)
        inside = np.minimum(inside, np.hypot(x - cx, y - cy) - _RIVET_RADIUS)
    part.body[:] = np.clip(inside + 0.5, 0, 1)
    depth = np.clip(inside / _BEVEL, 0, 1)
    part.height[:] = 8 * (1 - (1 - depth) ** 2)
    for i in range(_GROOVES):
        angle = part.angle + 2 * np.pi * (i + 0.25) / _GROOVES
        along = dx * math.cos(angle) + dy * math.sin(angle)
        across = np.abs(dy * math.cos(angle) - dx * math.sin(angle))
        channel = np.clip((_GROOVE_WIDTH - across) / 8, 0, 1) * (along > 0) * part.body
        part.height -= 6 * channel.astype(np.float32)
    grain = photo_texture(photographs.gravel, rng, scale=rng.uniform(0.44, 0.52))
    mottle = cloud(rng, 96)
    part.height += part.body * (0.22 * grain + 0.5 * mottle)
    tint = _RING_COLOUR * rng.normal(1, 0.02, 3).astype(np.float32) * np.float32(rng.normal(1, 0.03))
    surface = np.clip(1 + 0.11 * grain + 0.03 * mottle, 0.3, 1.8)[..., None] * tint
    part.reflectance += part.body[..., None] * (surface - part.reflectance)
    part.gloss += part.body * np.float32(0.05)


def _belt(photographs: Photographs, rng: np.random.Generator) -> Floats:
    fibres = photo_texture(photographs.grass, rng, scale=0.45, turn=0.0)
    # The belt is worn in stripes along its way (left to right); the stripes stay where they are.
    stripes = cv2.resize(
        np.random.default_rng(7).normal(0, 1, (40, 1)).astype(np.float32),
        (CANVAS, CANVAS),
        interpolation=cv2.INTER_CUBIC,
    )
    wear = np.clip(1 + 0.10 * fibres + 0.10 * stripes + 0.05 * cloud(rng, 64), 0.4, 2)
    return np.asarray(wear[..., None] * _BELT_COLOUR, np.float32)


def photo_texture(
    photograph: Floats, rng: np.random.Generator, scale: float, turn: float | None = None
) -> Floats:
    """A random place of a photograph, mirrored on where it ends: ``float32 CANVAS x CANVAS``.

    ``turn`` in degrees; None is a random angle.
    """
    degrees = rng.uniform(0, 360) if turn is None else turn
    height, width = photograph.shape
    centre = (rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height)
    matrix = cv2.getRotationMatrix2D(centre, degrees, scale)
    matrix[0, 2] += CANVAS / 2 - centre[0]
    matrix[1, 2] += CANVAS / 2 - centre[1]
    source = photograph if rng.random() < 0.5 else np.ascontiguousarray(photograph[:, ::-1])
    return np.asarray(
        cv2.warpAffine(
            source, matrix, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        ),
        np.float32,
    )


def cloud(rng: np.random.Generator, cell: int, octaves: int = 3) -> Floats:
    """Smooth random noise, standard deviation about 1, with spots of about ``cell`` canvas pixels."""
    total = np.zeros((CANVAS, CANVAS), np.float32)
    for octave in range(octaves):
        count = max(2, CANVAS * 2**octave // cell + 1)
        coarse = rng.normal(0, 0.7**octave, (count, count)).astype(np.float32)
        total += cv2.resize(coarse, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
    return total


def photograph(part: Part, lamp: Lamp, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Take the camera's picture of a part: ``uint8 SIZE x SIZE x 3`` RGB."""
    azimuth = math.radians(lamp.azimuth + rng.normal(0, 1.5))
    towards = (math.cos(azimuth), -math.sin(azimuth))
    smooth = cv2.GaussianBlur(part.height, (0, 0), 1.2)
    gx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3) / 8
    gy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3) / 8
    norm = np.sqrt(gx * gx + gy * gy + 1)
    # A lamp at 45 degrees and the light that the room throws back.
    direct = np.clip((1 - gx * towards[0] - gy * towards[1]) / norm, 0, None)
    mirrored = np.clip((1 - 0.6 * (gx * towards[0] + gy * towards[1])) / norm, 0, 1.5) ** 12
    light = 0.30 + 0.70 * direct
    light *= 1 - (1 - part.body) * _shadow(part.body, towards)
    y, x = np.mgrid[-1 : 1 : CANVAS * 1j, -1 : 1 : CANVAS * 1j].astype(np.float32)
    field = 1 + lamp.slope / 2 * (x * towards[0] + y * towards[1]) - 0.10 * (x * x + y * y)
    brightness = lamp.brightness * rng.normal(1, 0.02)
    light *= np.asarray(field * brightness, np.float32)
    colour = np.array(lamp.colour, np.float32)
    scene = part.reflectance * light[..., None] + (part.gloss * mirrored * light)[..., None]
    blurred = cv2.GaussianBlur(scene * colour, (0, 0), 1.3 + 0.25 * rng.random())
    linear = np.asarray(cv2.resize(blurred, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.float32)
    # Photon noise grows with the root of the light; read noise is constant.
    noise = rng.standard_normal((SIZE, SIZE, 3), np.float32)
    linear = linear + noise * np.sqrt(np.clip(linear, 0, None) * 1.0e-4 + 1.5e-5)
    return np.asarray(np.clip(np.clip(linear * 1.15, 0, 1) ** (1 / 1.6) * 255 + 0.5, 0, 255), np.uint8)


def _shadow(body: Floats, towards: tuple[float, float]) -> Floats:
    """How much of the light the ring takes from the belt, 0 to 1."""
    shift = np.array([[1, 0, -12 * towards[0]], [0, 1, -12 * towards[1]]], np.float32)
    moved = cv2.warpAffine(body, shift, (CANVAS, CANVAS))
    near = cv2.GaussianBlur(body, (0, 0), 9)
    return np.asarray(np.clip(0.6 * cv2.GaussianBlur(moved, (0, 0), 6) + 0.35 * near, 0, 0.85), np.float32)


def mask_of(part: Part) -> npt.NDArray[np.uint8]:
    """The ground truth of the part's defect: ``uint8 SIZE x SIZE``, 255 on the defect."""
    small = cv2.resize(part.defect, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.where(small > 0.25, np.uint8(255), np.uint8(0))
