"""How a camera stood when its images were taken: recorded with a calibration, compared at the next start.

A camera that sets its own exposure or white balance, or that stands otherwise than when the line was calibrated,
gives other images of the same part; the scores move, and nothing else says so.
"""

from __future__ import annotations

import math

import msgspec

from edge_ad_runtime.errors import InputError

TOLERANCE = 0.02
"""Relative difference of exposure, gain or colour gain that is none: sensors take exposures in whole rows."""


class CameraState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a camera says of itself; None is what cannot be told.

    ``camera`` is its model or serial number. ``width``, ``height`` (pixels) and ``pixel_format`` are those of the
    device, before rotation; ``rotate`` (degrees clockwise) and ``flip`` come after it. ``exposure_us`` is in
    microseconds. ``gain`` is in the device's own unit: a V4L2 driver's number, the factor of a CSI sensor, decibels of
    GenICam. ``white_balance_k`` is in Kelvin; ``colour_gains`` are the factors of red and blue.
    """

    camera: str | None = None
    width: int | None = None
    height: int | None = None
    pixel_format: str | None = None
    rotate: int = 0
    flip: str = "none"
    auto_exposure: bool | None = None
    exposure_us: float | None = None
    gain: float | None = None
    auto_white_balance: bool | None = None
    white_balance_k: int | None = None
    colour_gains: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        numbers = (self.exposure_us, self.gain, *(self.colour_gains or ()))
        if not all(math.isfinite(n) for n in numbers if n is not None):
            raise InputError("a camera's exposure and gains must be finite numbers")


def automatic(state: CameraState) -> list[str]:
    """What the camera still sets by itself, in words; empty when it is locked or cannot be asked."""
    found = []
    if state.auto_exposure:
        found.append("automatic exposure is on")
    if state.auto_white_balance:
        found.append("automatic white balance is on")
    return found


def compare(recorded: CameraState, now: CameraState) -> list[str]:
    """How ``now`` differs from what was recorded, a sentence each; empty when images may be compared.

    What was not recorded is not compared. Values that the camera set by itself when they were recorded are not
    compared either; that it did so is.
    """
    differences = [
        *_differ("the camera", recorded.camera, now.camera),
        *_differ("the image size", _size(recorded), _size(now)),
        *_differ("the pixel format", recorded.pixel_format, now.pixel_format),
        *_differ("the rotation", recorded.rotate, now.rotate, "°"),
        *_differ("the flip", recorded.flip, now.flip),
        *_differ("automatic exposure", _on(recorded.auto_exposure), _on(now.auto_exposure)),
        *_differ("automatic white balance", _on(recorded.auto_white_balance), _on(now.auto_white_balance)),
    ]
    if not (recorded.auto_exposure or now.auto_exposure):
        differences += _differ("the exposure", recorded.exposure_us, now.exposure_us, " µs")
        differences += _differ("the gain", recorded.gain, now.gain)
    if not (recorded.auto_white_balance or now.auto_white_balance):
        differences += _differ("the white balance", recorded.white_balance_k, now.white_balance_k, " K")
        differences += _differ("the colour gains", recorded.colour_gains, now.colour_gains)
    return differences


_Value = str | float | tuple[float, float] | None


def _differ(what: str, recorded: _Value, now: _Value, unit: str = "") -> list[str]:
    if recorded is None or _same(recorded, now):
        return []
    was = f"was {_text(recorded)}{unit} at the calibration"
    if now is None:
        return [f"{what} cannot be read now; it {was}"]
    verb = "are" if isinstance(now, tuple) else "is"
    return [f"{what} {verb} {_text(now)}{unit}, {was.replace('was', 'were') if verb == 'are' else was}"]


def _same(recorded: _Value, now: _Value) -> bool:
    if isinstance(recorded, tuple) and isinstance(now, tuple):
        return all(map(_close, recorded, now))
    if isinstance(recorded, (int, float)) and isinstance(now, (int, float)):
        return _close(recorded, now)
    return recorded == now


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-6)


def _text(value: _Value) -> str:
    if isinstance(value, tuple):
        return " and ".join(f"{v:g}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _size(state: CameraState) -> str | None:
    return None if state.width is None or state.height is None else f"{state.width}x{state.height}"


def _on(automatic: bool | None) -> str | None:
    return None if automatic is None else "on" if automatic else "off"
