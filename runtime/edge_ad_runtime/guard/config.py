"""What a guard needs to know; a file of its own makes two guards of one line impossible."""

from __future__ import annotations

import hashlib

import msgspec

from edge_ad_runtime.tracking.tracker import TrackSettings


class GuardConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``outputs``, ``heartbeat``, ``trigger``, ``encoder`` and ``belt`` are URLs (:mod:`edge_ad_runtime.outputs`,
    :mod:`edge_ad_runtime.triggers`).

    With ``track`` every trigger makes a part; ``trigger`` None then means that the scorer triggers. Without ``track``
    every frame is a part, ``travel_ns`` from the ejector. A scorer that is silent for ``silence_ns`` is lost.
    ``reject_unknown``: what lies between the trigger and the ejector when the guard starts is rejected.
    ``priority`` is the real-time priority that is asked for (SCHED_FIFO, 1 to 99; 0 asks for none).
    """

    line: str
    outputs: tuple[str, ...]
    heartbeat: str | None = None
    trigger: str | None = None
    encoder: str | None = None
    belt: str | None = None
    track: TrackSettings | None = None
    travel_ns: int = 0
    pass_faults: bool = False
    reject_unknown: bool = True
    silence_ns: int = 1_000_000_000
    priority: int = 20

    @property
    def digest(self) -> str:
        """The same for the same configuration of the same version of the program, whatever ``silence_ns`` is: that follows
        from how fast the model was measured to be, and must not part a restarted scorer from its guard."""
        # As the guard gets it: a whole number given for a float is a float there.
        sent = msgspec.json.decode(msgspec.json.encode(self), type=GuardConfig)
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(sent, silence_ns=0))).hexdigest()
