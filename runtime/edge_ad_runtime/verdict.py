"""What becomes of a part, and why a part has no verdict of the model."""

from __future__ import annotations

from enum import Enum


class Verdict(str, Enum):
    """What becomes of a part."""

    PASS = "pass"
    REJECT = "reject"
    FAULT = "fault"


class Fault(str, Enum):
    """Why a part's verdict is ``fault``."""

    NO_VERDICT = "no_verdict"
    """The scorer was alive, but its verdict had not come when the part had to be decided on."""
    SCORER = "scorer_lost"
    """The scoring process was gone, stopped or silent when the part had to be decided on."""
    CAMERA = "camera_lost"
    """The camera was away."""
    NO_FRAME = "no_frame"
    """No frame was exposed in time after the trigger."""
    SHARED_FRAME = "shared_frame"
    """One frame was the first for two parts, so it says nothing certain of either."""
    FRAME = "bad_frame"
    """The frame could not be read."""
    ENGINE = "engine"
    """The engine failed."""
    NOT_FINITE = "not_finite"
    """The score is not a number."""
    OVERRUN = "overrun"
    """More parts waited for the scorer than allowed."""
    TOO_CLOSE = "too_close"
    """A neighbour had to be rejected, and no pulse can tell the two apart."""
    LOST_TRIGGER = "lost_trigger"
    """Triggers were lost nearby: parts that nobody knows of are rejected, and this one with them."""
    BELT = "belt_stopped"
    """The belt stood still while the part was on its way, and travel is told by time."""
    ENCODER = "encoder_silent"
    """The encoder stood still while parts went by, so nobody knows how far the belt has gone."""
