"""How a camera is to be set: size, rate, exposure, and how its images are turned."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Literal

import cv2
import msgspec
import numpy as np

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.outputs.query import Query
from edge_ad_runtime.types import Image

SETTINGS_KEYS = (
    "width", "height", "fps", "pixel_format", "rotate", "flip", "exposure_us", "gain", "white_balance_k", "lock",
)  # fmt: skip
TURN_KEYS = ("rotate", "flip")

_ROTATIONS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
_FLIPS = {"horizontal": 1, "vertical": 0, "both": -1}
# A CMOS sensor exposes for 10 s at most, and light has 1000 to 20,000 K.
_RANGES = {
    "width": (1, 16384),
    "height": (1, 16384),
    "exposure_us": (1, 10_000_000),
    "white_balance_k": (1000, 20_000),
}


class CameraSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to set when a camera is opened; None leaves a value as the device has it.

    ``width`` and ``height`` (pixels, given together) and ``pixel_format`` (V4L2: four characters such as ``MJPG`` or
    ``YUYV``; GenICam: a name such as ``BayerRG8``) are the device's; then the image is turned clockwise by ``rotate``
    degrees and mirrored: ``horizontal`` exchanges left and right. ``fps`` is in frames a second, 0 to 1000.

    ``exposure_us`` (1 to 10,000,000 µs), ``gain`` (the unit of the device, see
    :class:`edge_ad_runtime.camera_state.CameraState`) and ``white_balance_k`` (1000 to 20,000 K) turn the automatic
    off for themselves. ``lock`` turns automatic exposure and white balance off where they are not given: a V4L2 or
    GenICam camera then keeps the values it has stored, a CSI camera those it finds in its first two seconds. A lock
    without values may differ from start to start; the comparison with the calibration tells.

    Raises:
        InputError: a value is out of its range, or only one of width and height is given.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    pixel_format: str | None = None
    rotate: Literal[0, 90, 180, 270] = 0
    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    exposure_us: float | None = None
    gain: float | None = None
    white_balance_k: int | None = None
    lock: bool = False

    def __post_init__(self) -> None:
        for key, (low, high) in _RANGES.items():
            value = getattr(self, key)
            if value is not None and not low <= value <= high:
                raise InputError(f"{key} {value:g} must be {low} to {high}")
        if (self.width is None) != (self.height is None):
            raise InputError("width and height must be given together")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise InputError(f"fps {self.fps:g} must be above 0 and at most 1000")
        if self.gain is not None and not (math.isfinite(self.gain) and abs(self.gain) <= 100_000):
            raise InputError(f"gain {self.gain:g} must be a number of at most 100000")
        if self.pixel_format is not None and not (
            self.pixel_format.isascii() and self.pixel_format.isalnum()
        ):
            raise InputError(
                f"pixel_format '{self.pixel_format}' must be a name such as MJPG, YUYV or BayerRG8"
            )
        if self.rotate not in (0, *_ROTATIONS):
            raise InputError(f"rotate {self.rotate} must be 0, 90, 180 or 270")
        if self.flip not in ("none", *_FLIPS):
            raise InputError(f"flip '{self.flip}' must be none, horizontal, vertical or both")

    def given(self) -> frozenset[str]:
        """The keys that are not as they are by default."""
        default = CameraSettings()
        return frozenset(key for key in SETTINGS_KEYS if getattr(self, key) != getattr(default, key))


def settings_of_query(query: Query, where: str, keys: Collection[str] = SETTINGS_KEYS) -> CameraSettings:
    """The settings among the keys of a camera text, such as ``width=1280&height=720&exposure_us=2000``.

    Raises:
        InputError: a value is not a number, a choice or in its range.
    """
    values: dict[str, Any] = {}
    for key in keys:
        if text := query.text(key, ""):
            values[key] = query.flag(key) if key == "lock" else text
    try:
        # Not strict: numbers stand as text here.
        return msgspec.convert(values, CameraSettings, strict=False)
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{where}: {error}") from None


def merge(text: CameraSettings, given: CameraSettings | None, where: str) -> CameraSettings:
    """Settings of a camera text and of an object together.

    Raises:
        InputError: a key stands in both.
    """
    if given is None:
        return text
    if twice := sorted(text.given() & given.given()):
        raise InputError(f"{where}: {', '.join(twice)} is set both in the text and in the settings; keep one")
    return msgspec.structs.replace(given, **{key: getattr(text, key) for key in text.given()})


def only(settings: CameraSettings, keys: Collection[str], where: str, why: str) -> CameraSettings:
    """The settings, if nothing else than ``keys`` is set.

    Raises:
        InputError: something else is set.
    """
    if other := sorted(settings.given() - set(keys)):
        raise InputError(f"{where}: {', '.join(other)} cannot be set here: {why}")
    return settings


def turn(image: Image, settings: CameraSettings) -> Image:
    """Rotate, then flip: the only place where images are turned."""
    if settings.rotate:
        image = np.asarray(cv2.rotate(image, _ROTATIONS[settings.rotate]), np.uint8)
    if settings.flip != "none":
        image = np.asarray(cv2.flip(image, _FLIPS[settings.flip]), np.uint8)
    return image
