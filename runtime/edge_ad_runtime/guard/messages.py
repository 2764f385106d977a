"""What the scorer and the guard tell each other, MessagePack over a local packet socket, one message a packet."""

from __future__ import annotations

import msgspec

from edge_ad_runtime.actuation import ActuatorStats
from edge_ad_runtime.tracking.tracker import Settled
from edge_ad_runtime.verdict import Fault, Verdict

PROTOCOL = 3
MAX_PACKET = 65_536
# Characters of a text in a message: a driver's or an engine's error may be any length, a packet may not.
LONGEST_TEXT = 2_000


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The scorer's first message."""

    protocol: int
    pid: int


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """From the scoring loop itself: it goes round. ``frames``: how many frames it has scored. ``camera``: frames come.
    ``trigger``: where the scorer triggers, whether it would notice a part."""

    frames: int
    camera: bool
    trigger: bool = True


class SoftTrigger(msgspec.Struct, frozen=True, tag="trigger"):
    """A part was at the trigger's place at ``t_ns``: a software trigger, or motion seen by the camera."""

    t_ns: int


class PartVerdict(msgspec.Struct, frozen=True, tag="verdict", omit_defaults=True):
    """The scorer's word on a triggered part. Number and time are those of :class:`PartSeen`: a word on a part of a former
    guard, which may have the same number, meets no other part."""

    part: int
    t_trigger_ns: int
    verdict: Verdict
    fault: Fault | None = None
    detail: str | None = None


class FrameVerdict(msgspec.Struct, frozen=True, tag="frame", omit_defaults=True):
    """The scorer's word on a frame taken at ``t_ns``, on a line without a trigger."""

    t_ns: int
    verdict: Verdict
    fault: Fault | None = None
    detail: str | None = None


class Finish(msgspec.Struct, frozen=True, tag="finish"):
    """Take no more triggers, give what is due within ``drain_ns``, bring the outputs into their safe state, and end."""

    drain_ns: int


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Answered with a :class:`Report`. As the first message in place of :class:`Hello` it comes from someone who only looks:
    the guard answers and hangs up, and its scorer is not disturbed."""


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Answered with :class:`Pong` by a guard whose loop goes round."""


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The guard's answer to :class:`Hello`. ``config`` is the digest of what it was started with; ``realtime`` says
    whether it has a real-time priority."""

    protocol: int
    pid: int
    config: str
    realtime: bool = False


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The guard talks to another scorer, or speaks another protocol."""

    why: str


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """The answer to :class:`Ping`."""


class PartSeen(msgspec.Struct, frozen=True, tag="part"):
    """A part passed the trigger; its verdict is wanted."""

    part: int
    t_trigger_ns: int


class Notice(msgspec.Struct, frozen=True, tag="notice"):
    """Something that a person should read."""

    text: str


class Report(msgspec.Struct, frozen=True, tag="report", kw_only=True):
    """Counts since the guard's start. ``final``: the outputs are closed and the guard ends; ``unsafe`` then says which
    output could not be brought into its safe state. ``scorer`` is the process that is connected, 0 without one."""

    triggers: int
    bounces: int
    lost_triggers: int
    parts: int
    passed: int
    rejected: int
    faults: dict[Fault, int]
    late_verdicts: int
    in_flight: int
    most_in_flight: int
    scorer_losses: int
    outputs: tuple[ActuatorStats, ...]
    final: bool = False
    unsafe: str | None = None
    scorer: int = 0


ToGuard = Hello | Alive | SoftTrigger | PartVerdict | FrameVerdict | Finish | Ask | Ping
FromGuard = Welcome | Refused | PartSeen | Settled | Notice | Report | Pong


def sendable(text: str) -> str:
    """The text as a message can carry it: not too long, and without what is not Unicode (an error that names a file may
    hold any bytes)."""
    if len(text) > LONGEST_TEXT:
        text = text[: LONGEST_TEXT - 1] + "…"
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
