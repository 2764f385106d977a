"""Films of belts: real photographs of parts on a real texture, moved past a camera whose every position is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

DATA = Path(__file__).parents[3] / "shared" / "data"
HEIGHT, WIDTH = 120, 320
FPS = 30
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """A part of ``length`` columns whose leading edge is ``at`` columns behind the first column of the belt."""

    at: int
    length: int


def place(lengths: list[int], gaps: list[int], first: int = WIDTH) -> list[Part]:
    """Parts one behind the other, ``gaps[i]`` columns behind part ``i``."""
    parts, at = [], first
    for length, gap in zip(lengths, gaps, strict=True):
        parts.append(Part(at, length))
        at += length + gap
    return parts


class Belt:
    """Moves to the right. At a way of ``w`` columns, at least ``WIDTH``, a leading edge with ``at`` stands in column
    ``w - at`` of the view."""

    def __init__(
        self, parts: list[Part], seed: int = 0, breadth: float = 0.7, brightness: float = 150
    ) -> None:
        self._parts = parts
        self._grain = np.random.default_rng(seed).normal(0, 1, (8, HEIGHT, WIDTH, 3))
        length = max(p.at + p.length for p in parts) + 2 * WIDTH
        # Column 0 of the strip is the belt's end, so that the view moves to the left over it.
        self._strip = self._texture(length, brightness)
        pictures = self._pictures()
        for index, part in enumerate(parts):
            begin = length - part.at - part.length
            picture, mask = pictures[index % len(pictures)]
            height = round(HEIGHT * breadth)
            size = (part.length, height)
            top = (HEIGHT - height) // 2
            region = self._strip[top : top + height, begin : begin + part.length]
            shape = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)[..., None] > 0
            region[:] = np.where(shape, cv2.resize(picture, size, interpolation=cv2.INTER_AREA), region)

    def _texture(self, length: int, brightness: float) -> npt.NDArray[np.uint8]:
        """The belt: a real fabric-like texture, mirrored so that no seam is a part."""
        folder = DATA / "piped" / "PA_BDP01_TL" / "train" / "good"
        tile = cv2.imread(str(min(folder.iterdir())))
        assert tile is not None
        tile = cv2.resize(tile, (HEIGHT, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)
        pair = np.concatenate([tile, tile[:, ::-1]], axis=1)
        pair = brightness + 0.3 * (pair - pair.mean())
        repeated = np.tile(pair, (1, length // pair.shape[1] + 1, 1))[:, :length]
        belt: npt.NDArray[np.uint8] = np.clip(repeated, 0, 255).astype(np.uint8)
        return belt

    def _pictures(self) -> list[tuple[Image, Image]]:
        """Magnetic tiles (whole images) and bottles from above (round)."""
        found: list[tuple[Image, Image]] = []
        for path in sorted((DATA / "magnetic_tile" / "train" / "good").glob("*.*"))[:40:10]:
            picture = cv2.imread(str(path))
            assert picture is not None
            found.append((picture.astype(np.uint8), np.ones(picture.shape[:2], np.uint8)))
        for path in sorted((DATA / "mvtec_ad" / "bottle" / "train" / "good").iterdir())[:3]:
            picture = cv2.imread(str(path))
            assert picture is not None
            # The bottle's circle fills the crop, so that its leading edge is the part's.
            picture = picture[24:-24, 24:-24]
            mask = np.zeros(picture.shape[:2], np.uint8)
            cv2.ellipse(mask, (232, 232), (232, 232), 0, 0, 360, 1, -1)
            found.append((picture.astype(np.uint8), mask))
        return found

    def views(
        self, ways: list[float], light: list[float] | None = None, noise: float = 2.0
    ) -> Iterator[Image]:
        """The frames at these ways of the belt, in columns, with these factors of brightness."""
        grain = np.round(noise * self._grain).astype(np.int16)
        for i, way in enumerate(ways):
            begin = self._strip.shape[1] - round(way)
            view: npt.NDArray[Any] = self._strip[:, begin : begin + WIDTH]
            if light is not None:
                view = cv2.convertScaleAbs(view, alpha=light[i])
            yield cv2.add(view, grain[i % len(grain)], dtype=cv2.CV_8U).astype(np.uint8)


def ways(speeds: list[float]) -> list[float]:
    """Where the belt is on each frame, from its speed on each in columns a frame."""
    return [WIDTH + float(w) for w in np.cumsum(speeds)]
