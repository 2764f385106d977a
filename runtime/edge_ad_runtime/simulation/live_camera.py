"""A camera above the modelled belt, in real time: its frames show what was before it when they were exposed."""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_ad_runtime.cameras.capture import Shot
from edge_ad_runtime.errors import CameraError, ImageError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.simulation.faults import SHARES, Kind
from edge_ad_runtime.simulation.live_plan import START, LivePlan
from edge_ad_runtime.simulation.motion import Motion
from edge_ad_runtime.simulation.view import View
from edge_ad_runtime.types import Image

# What a plate says by its grey.
EMPTY, GOOD, BAD = 0, 120, 240
# Frames that a driver keeps while nobody reads.
_DRIVER_FRAMES = 4
_CACHE_BYTES = 300_000_000
_PLATE = 16
_NOTHING = "empty belt"


def caption(index: int, name: str) -> str:
    """A frame's source: the part, from 1, and its image."""
    return f"part {index + 1}: {name}"


def shown(source: str) -> str | None:
    """The image that a frame of this source shows; None where it shows no part."""
    head, colon, name = source.partition(": ")
    return name if colon and head.startswith("part ") else None


class BeltScene:
    """What a camera above the belt sees."""

    def __init__(self, plan: LivePlan) -> None:
        self._plan = plan
        self._view = View(plan.scene, plan.articles, Motion.of(plan.stretches))
        self._images: OrderedDict[str, Image] = OrderedDict()
        region = plan.line.region
        self._size = (
            (_PLATE, _PLATE) if region is None else (region.y + region.height, region.x + region.width)
        )

    def at(self, exposed_ns: int) -> tuple[Image, str]:
        """The picture and its caption, at a time of the belt (negative: before it ran)."""
        articles = self._plan.articles
        in_view = self._view.at(exposed_ns) if exposed_ns >= 0 else ()
        if not in_view:
            # The worst that a model can say of an empty belt is that it is good.
            return self._picture(
                next((a.looks.name for a in articles if not a.looks.bad), ""), EMPTY
            ), _NOTHING
        # Where several are in view, the camera sees the defect of any.
        index = max(in_view, key=lambda i: (articles[i].looks.bad, -i))
        looks = articles[index].looks
        return self._picture(looks.name, BAD if looks.rejected else GOOD), caption(index, looks.name)

    def _picture(self, name: str, plate: int) -> Image:
        folder = self._plan.images
        if folder is None or not name:
            return np.full((*self._size, 3), plate, np.uint8)
        image = self._images.get(name)
        if image is None:
            image = self._images[name] = read_image(Path(folder) / name)
            while len(self._images) > 1 and sum(i.nbytes for i in self._images.values()) > _CACHE_BYTES:
                self._images.popitem(last=False)
        self._images.move_to_end(name)
        return image


class BeltCapture:
    """Frames at the scene's rate: each comes, with the timestamp of that moment, up to the camera's latency after its
    exposure began."""

    def __init__(
        self, plan: LivePlan, scene: BeltScene, folder: Path, injected: Callable[[Kind], None]
    ) -> None:
        self._plan = plan
        self._scene = scene
        self._start_file = folder / START
        self._injected = injected
        self._rng = random.Random(f"{plan.seed}/{time.monotonic_ns()}")
        self._start: int | None = None
        self._number = time.monotonic_ns() // plan.scene.frame_ns + 1
        self._came = 0
        self._exposed = 0
        self._refuse_if_away()

    def grab(self) -> int | None:
        scene, rng = self._plan.scene, self._rng
        while True:
            # One who was stopped finds the frames that the driver has kept.
            latest = (time.monotonic_ns() - scene.pick.latency_ns) // scene.frame_ns
            self._number = max(self._number + 1, latest - _DRIVER_FRAMES)
            dropped = Kind.DROPPED_FRAME in self._plan.kinds and rng.random() < SHARES[Kind.DROPPED_FRAME]
            self._exposed = self._number * scene.frame_ns + round(rng.random() * 0.05 * scene.frame_ns)
            came = self._exposed + round(scene.pick.latency_ns * rng.uniform(0.3, 1.0))
            self._came = max(came, self._came + 1)
            time.sleep(max(self._came - time.monotonic_ns(), 0) / 1e9)
            self._refuse_if_away()
            if not dropped:
                return self._came
            self._injected(Kind.DROPPED_FRAME)

    def _refuse_if_away(self) -> None:
        if self._start is None and self._start_file.exists():
            self._start = int(self._start_file.read_bytes())
        if self._start is None:
            return
        now = time.monotonic_ns() - self._start
        if any(begin <= now < end for begin, end in self._plan.away):
            raise CameraError("the modelled camera is away (as asked)")

    def retrieve(self) -> Shot:
        if Kind.BAD_FRAME in self._plan.kinds and self._rng.random() < SHARES[Kind.BAD_FRAME]:
            self._injected(Kind.BAD_FRAME)
            raise ImageError("the frame is damaged (as asked)")
        pixels, source = self._scene.at(-1 if self._start is None else self._exposed - self._start)
        return Shot(pixels, "RGB", self._came, source)

    def release(self) -> None:
        return
