"""The calibration record: the numbers that turn raw maps into a verdict."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np

from edge_ad_runtime.camera_state import CameraState
from edge_ad_runtime.errors import CalibrationError, InputError
from edge_ad_runtime.score_rule import parse_score
from edge_ad_runtime.types import FloatArray

FORMAT_VERSION = 3
# Version 1 had no background, version 2 no camera; everything else is the same.
_READABLE = (1, 2, FORMAT_VERSION)


class Quantiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quantiles of the raw maps over good images: ``qa`` the 0.9, ``qb`` the 0.995 quantile.

    ``st`` is the teacher-student map, ``ae`` the autoencoder-student map. Source: arXiv 2303.14535,
    Algorithm 1, lines 33 to 41.
    """

    qa_st: float
    qb_st: float
    qa_ae: float
    qb_ae: float

    def __post_init__(self) -> None:
        for name, a, b in (("st", self.qa_st, self.qb_st), ("ae", self.qa_ae, self.qb_ae)):
            if not (math.isfinite(a) and math.isfinite(b) and a < b):
                raise CalibrationError(
                    f"the quantiles of the {name} map are {a} and {b}; they must be finite and rising"
                )


class Mix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of the two normalized maps in the combined map; the paper's are a half each."""

    st: float = 0.5
    ae: float = 0.5

    def __post_init__(self) -> None:
        if not (self.st >= 0 and self.ae >= 0 and math.isclose(self.st + self.ae, 1.0, abs_tol=1e-6)):
            raise CalibrationError(f"the mix {self.st}, {self.ae} must be two weights that add up to 1")


PAPER_MIX = Mix()
MixChoice = Mix | Literal["auto"]
"""Weights, or ``auto``: chosen on good images."""


def parse_mix(text: str) -> MixChoice:
    """Read ``auto`` or two weights ``ST:AE``, which are scaled to add up to 1 (``0.5:0.5``, ``1:0``, ``2:1``).

    Raises:
        CalibrationError: the text is neither.
    """
    if text == "auto":
        return "auto"
    try:
        st, ae = map(float, text.split(":"))
    except ValueError:
        st = ae = math.nan
    if not (math.isfinite(st + ae) and min(st, ae) >= 0 and st + ae > 0):
        raise CalibrationError(
            f"the mix '{text}' is not known; use auto or two weights ST:AE, like 0.5:0.5 or 2:1"
        )
    return Mix(st / (st + ae), ae / (st + ae))


class Background(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the autoencoder map shows on good parts, cell by cell: ``cells`` are ``float32 hxw``, row by row.

    Little-endian; subtracted from every autoencoder map before anything else. The autoencoder's output has
    a frame, and shades that belong to a place, which the student, who sees patches, cannot imitate.
    """

    height: int
    width: int
    cells: bytes

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or len(self.cells) != 4 * self.height * self.width:
            raise CalibrationError(
                f"the background of {self.height}x{self.width} cells has {len(self.cells)} bytes"
            )
        if not np.isfinite(self.values()).all():
            raise CalibrationError("the background is not finite")

    def values(self) -> FloatArray:
        """The cells, ``float32 hxw``, read-only."""
        return np.frombuffer(self.cells, "<f4").reshape(self.height, self.width)


def background_of(cells: FloatArray) -> Background:
    """The record of a matrix of cells."""
    height, width = cells.shape
    return Background(height, width, np.ascontiguousarray(cells, "<f4").tobytes())


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What field recalibration changes: quantiles and threshold, and where they came from.

    ``bundle`` is the id of the bundle it was fitted with. A part is good up to and including ``threshold``.
    ``false_reject_rate`` is the share of good parts that the threshold was chosen to reject; ``images``
    the number of good images of the fit; ``created`` a wall-clock label (ISO 8601); ``source`` says what
    the images were; ``score`` is the rule for the image's score, see :mod:`edge_ad_runtime.score_rule`;
    ``background`` is taken off the autoencoder map, and the quantiles are those of what is left. ``camera`` is how the
    camera stood that gave the images; None where they were files, or the calibration is older.
    """

    bundle: str
    quantiles: Quantiles
    threshold: float
    method: Literal["gumbel", "given"]
    false_reject_rate: float | None
    images: int
    created: str
    source: str
    mix: Mix = Mix()
    score: str = "max"
    background: Background | None = None
    camera: CameraState | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version not in _READABLE:
            raise CalibrationError(
                f"calibration format {self.format_version} is not known here (this is {FORMAT_VERSION}); "
                "update edge-ad"
            )
        if not math.isfinite(self.threshold):
            raise CalibrationError(f"the threshold {self.threshold} is not a finite number")
        if self.images < 1:
            raise CalibrationError("a calibration needs at least one image")
        try:
            parse_score(self.score)
        except InputError as error:
            raise CalibrationError(str(error)) from error


def encode_calibration(calibration: Calibration) -> bytes:
    """The calibration as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(calibration), indent=2) + b"\n"


def decode_calibration(data: bytes, where: str) -> Calibration:
    """Read what :func:`encode_calibration` wrote; ``where`` names the file in errors.

    Raises:
        CalibrationError: the data is damaged or of an unknown format.
    """
    try:
        return msgspec.json.decode(data, type=Calibration)
    except (msgspec.DecodeError, ValueError) as error:
        raise CalibrationError(f"{where}: not a usable calibration ({error})") from error
