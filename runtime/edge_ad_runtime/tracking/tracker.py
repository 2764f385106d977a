"""Every part from its trigger to its ejector: what is due when, and what was decided.

A part is decided on just before its pulse would have to begin. Only a verdict ``pass`` that has come by then spares
it; everything else, silence included, rejects it, unless the policy says otherwise. So a scorer that is late, stopped
or dead lets no part through.

Two parts that are closer together than ``min_gap`` cannot be told apart by a pulse. Where one part of such a chain is
rejected, all parts that follow it in the chain are, and those before it that have not been decided on yet; a part is
only passed when all that follow it in its chain are known to pass. So no pulse ever strikes a part that was not meant.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import msgspec

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.tracking.belt import Belt
from edge_ad_runtime.verdict import Fault, Verdict


class TrackSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``travel`` and ``min_gap`` are in the belt's unit (:mod:`edge_ad_runtime.tracking.belt`): the way from the trigger
    to where the pulse begins to act, and the distance below which a pulse for one part may strike the other.

    ``lead_ns`` is how long before that the outputs have to be told at the latest, ``reach_ns`` how long after it the last
    of them acts. A part is decided on ``ahead_ns`` before the outputs have to be told. Triggers nearer than ``debounce_ns`` to the one before are bounces. More than
    ``max_in_flight`` undecided parts are an overrun. ``pass_missing`` and ``pass_faults`` pass a part without a verdict
    in time, and one that could not be inspected. ``steady_ns`` is how long a belt without an encoder takes to run at its
    speed after a stop. Two triggers between which an encoded belt has gone less than ``min_advance`` counts contradict
    the encoder: it is taken for dead (0: no such check).
    """

    travel: float
    min_gap: float
    lead_ns: int
    reach_ns: int
    ahead_ns: int
    debounce_ns: int
    max_in_flight: int
    pass_missing: bool = False
    pass_faults: bool = False
    steady_ns: int = 0
    min_advance: float = 0.0

    def __post_init__(self) -> None:
        if self.travel <= self.min_gap:
            raise InputError(
                "travel must be longer than min_gap: the part behind must be known when a part is decided on"
            )


class Settled(msgspec.Struct, frozen=True, kw_only=True, tag="settled", omit_defaults=True):
    """What became of a part, told when it has left the ejector's reach. ``ejected``: a pulse or a hold was meant for it.
    ``due_ns``: when it is, or was, before the ejector."""

    part: int
    t_trigger_ns: int
    verdict: Verdict
    ejected: bool
    due_ns: int
    fault: Fault | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Eject:
    """Reject what is before the ejector from ``at_ns`` on.

    ``whole``: a pulse that comes late is given in full length all the same, see
    :class:`edge_ad_runtime.tracking.pulses.Pulse`.
    """

    at_ns: int
    whole: bool = False


@dataclass(frozen=True)
class HoldFrom:
    """Reject everything that is before the ejector from ``at_ns`` on."""

    name: str
    at_ns: int


@dataclass(frozen=True)
class HoldUntil:
    """The end of the hold of this name."""

    name: str
    at_ns: int


Action = Eject | HoldFrom | HoldUntil | Settled


@dataclass
class TrackCounts:
    """Counts since the start. ``faults`` counts by kind; ``late_verdicts`` came after their part was decided on."""

    triggers: int = 0
    bounces: int = 0
    lost_triggers: int = 0
    parts: int = 0
    passed: int = 0
    rejected: int = 0
    late_verdicts: int = 0
    most_in_flight: int = 0
    faults: dict[Fault, int] = field(default_factory=dict)


@dataclass
class _Tracked:
    part: int
    t_ns: int
    at: float
    verdict: Verdict | None = None
    fault: Fault | None = None
    detail: str | None = None
    ejected: bool = False
    due_ns: int = 0

    def blame(self, fault: Fault, detail: str) -> None:
        self.verdict, self.fault, self.detail = Verdict.FAULT, fault, detail


@dataclass
class _Zone:
    """Positions of triggers between which unknown parts may lie; ``end`` None while it goes on."""

    name: str
    begin: float
    end: float
    on: bool = False


class Tracker:
    """The parts between the trigger and the ejector. Every method is told the time, which must not run backwards."""

    def __init__(self, settings: TrackSettings, belt: Belt, first_part: int = 1) -> None:
        self._settings = settings
        self._belt = belt
        self._next_part = first_part
        self._flight: deque[_Tracked] = deque()
        self._leaving: deque[_Tracked] = deque()
        self._zones: deque[_Zone] = deque()
        self._zone_number = 0
        self._last: tuple[int, float] | None = None
        # Where the latest part that was rejected, or the end of a hold, was triggered: who is too close behind goes too.
        self._rejected_at: float | None = None
        self._scorer_here = False
        self._stopped = False
        self._steady_from: int | None = None
        self.counts = TrackCounts()

    @property
    def in_flight(self) -> int:
        """Parts that are not decided on."""
        return len(self._flight)

    @property
    def busy(self) -> bool:
        """Whether a part is on its way or within the ejector's reach, or parts that nobody knows of may be."""
        return bool(self._flight or self._leaving or self._zones)

    def scorer(self, here: bool) -> None:
        """Whether the scorer lives; says why a verdict is missing."""
        self._scorer_here = here

    def trigger(self, t_ns: int, now_ns: int, lost: int = 0) -> tuple[int | None, list[Action]]:
        """A part passed the trigger at ``t_ns``; ``lost`` triggers before it are known to be lost.

        Returns:
            The part's number if the scorer should inspect it; and what has to be done at once.
        """
        counts, s = self.counts, self._settings
        counts.triggers += 1
        counts.lost_triggers += lost
        at = self._belt.position(t_ns)
        if lost:
            self._open_zone(self._last[1] if self._last is not None else at, at)
        if self._last is not None and t_ns - self._last[0] < s.debounce_ns:
            counts.bounces += 1
            return None, []
        actions: list[Action] = []
        contradicted = self._last is not None and at - self._last[1] < s.min_advance
        if contradicted:
            self._encoder_dead(at, now_ns, actions)
        self._last = (t_ns, at)
        part = _Tracked(self._next_part, t_ns, at)
        self._next_part += 1
        counts.parts += 1
        if self._stopped or (self._steady_from is not None and t_ns < self._steady_from):
            part.blame(Fault.BELT, "triggered while the belt was not at its speed")
        elif contradicted:
            part.blame(Fault.ENCODER, "parts went by while the encoder stood still")
        elif len(self._flight) >= s.max_in_flight:
            part.blame(Fault.OVERRUN, f"{len(self._flight)} parts were undecided")
        self._flight.append(part)
        counts.most_in_flight = max(counts.most_in_flight, len(self._flight))
        return (part.part if part.verdict is None else None), actions

    def begin(self, now_ns: int) -> None:
        """Nobody knows of what lies between the trigger and the ejector now, so it is rejected."""
        at = self._belt.position(now_ns)
        self._open_zone(at - self._settings.travel, at)

    def blind(self, now_ns: int) -> None:
        """The trigger is out of order: what passes it from now on is rejected unseen."""
        self._open_zone(self._belt.position(now_ns), math.inf)

    def sighted(self, now_ns: int) -> None:
        """The trigger works again."""
        if self._zones and self._zones[-1].end == math.inf:
            self._zones[-1].end = self._belt.position(now_ns)

    def encoder_lost(self, now_ns: int) -> list[Action]:
        """The encoder is out of order: what is on the belt is rejected, and what comes until :meth:`encoder_found`."""
        actions: list[Action] = []
        self._encoder_dead(math.inf, now_ns, actions)
        return actions

    def encoder_found(self, now_ns: int) -> None:
        """The encoder works again: the hold ends when the belt has gone the whole way from here."""
        self.sighted(now_ns)

    def verdict(
        self, part: int, verdict: Verdict, fault: Fault | None = None, detail: str | None = None
    ) -> bool:
        """The scorer's word on a part; returns whether it came in time. The first word counts."""
        if self._flight and part >= self._flight[0].part:
            index = part - self._flight[0].part
            if index < len(self._flight):
                tracked = self._flight[index]
                if tracked.verdict is None:
                    tracked.verdict, tracked.fault, tracked.detail = verdict, fault, detail
                return True
            return False
        self.counts.late_verdicts += 1
        return False

    def advance(self, now_ns: int) -> list[Action]:
        """Decide on everything that is due."""
        actions: list[Action] = []
        while self._flight:
            part = self._flight[0]
            due = self._due_time(part.at, now_ns)
            if due is None or now_ns < due - self._early_ns:
                break
            self._decide(part, due, actions)
            self._leaving.append(self._flight.popleft())
        while self._leaving and self._left(self._leaving[0], now_ns):
            self._settle(self._leaving.popleft(), actions)
        self._advance_holds(now_ns, actions)
        return actions

    def next_time(self, now_ns: int) -> int | None:
        """When :meth:`advance` has to be called next if nothing else happens."""
        times = []
        if self._flight and (due := self._due_time(self._flight[0].at, now_ns)) is not None:
            times.append(due - self._early_ns)
        if self._leaving and (out := self._out_time(self._leaving[0], now_ns)) is not None:
            times.append(out)
        begins = (self._due_time(zone.begin, now_ns) for zone in self._zones if not zone.on)
        times.extend(begin - self._early_ns for begin in begins if begin is not None)
        first = self._zones[0] if self._zones else None
        if first is not None and first.on and not self._near_undecided(first):
            end = self._due_time(first.end, now_ns)
            if end is not None:
                times.append(end + self._settings.reach_ns)
        return min(times, default=None)

    def belt_stopped(self, now_ns: int) -> list[Action]:
        """The belt without an encoder has stopped: nobody knows any more where its parts are, so all of them go."""
        if self._stopped:
            return []
        self._stopped = True
        actions: list[Action] = [HoldFrom("belt", now_ns)]
        self._condemn_all(now_ns, Fault.BELT, "the belt stopped", actions)
        return actions

    def belt_started(self, now_ns: int) -> list[Action]:
        """It runs again: what stood on it is still rejected until it has passed the ejector."""
        if not self._stopped:
            return []
        s = self._settings
        self._stopped = False
        self._steady_from = now_ns + s.steady_ns + round(s.min_gap)
        return [HoldUntil("belt", self._steady_from + round(s.travel))]

    @property
    def _early_ns(self) -> int:
        return self._settings.lead_ns + self._settings.ahead_ns

    def _due_time(self, at: float, now_ns: int) -> int | None:
        """When what was triggered there is before the ejector."""
        if at == math.inf:
            return None
        return self._belt.time_of(at + self._settings.travel, now_ns)

    def _out_time(self, part: _Tracked, now_ns: int) -> int | None:
        """When no pulse for another part reaches this one any more."""
        s = self._settings
        out = self._belt.time_of(part.at + s.travel + s.min_gap, now_ns)
        return None if out is None else max(out, part.due_ns + s.reach_ns)

    def _left(self, part: _Tracked, now_ns: int) -> bool:
        out = self._out_time(part, now_ns)
        return out is not None and now_ns >= out

    def _encoder_dead(self, at: float, now_ns: int, actions: list[Action]) -> None:
        """Hold until the encoder has shown the whole way from here; what comes meanwhile is within the hold."""
        self._condemn_all(now_ns, Fault.ENCODER, "parts went by while the encoder stood still", actions)
        here = self._belt.position(now_ns)
        self._open_zone(here - self._settings.travel, at)
        zone = self._zones[-1]
        zone.end = max(zone.end, at)
        if not zone.on:
            zone.on = True
            actions.append(HoldFrom(zone.name, now_ns))

    def _condemn_all(self, now_ns: int, fault: Fault, detail: str, actions: list[Action]) -> None:
        """Every part up to the ejector's end goes, by a hold that has begun: nobody knows where it is."""
        self._leaving.extend(self._flight)
        self._flight.clear()
        for part in self._leaving:
            if not part.ejected:
                if part.verdict is not Verdict.REJECT and part.fault is None:
                    part.blame(fault, detail)
                part.ejected, part.due_ns = True, now_ns
        while self._leaving:
            self._settle(self._leaving.popleft(), actions)

    def _decide(self, part: _Tracked, due_ns: int, actions: list[Action]) -> None:
        s = self._settings
        if part.verdict is None:
            part.blame(
                *(
                    (Fault.NO_VERDICT, "no verdict in time")
                    if self._scorer_here
                    else (Fault.SCORER, "the scorer is gone or silent")
                )
            )
        if self._spares(part):
            if self._zone_near(part.at) is not None:
                part.blame(Fault.LOST_TRIGGER, "triggers were lost near this part")
            elif self._rejected_at is not None and part.at - self._rejected_at < s.min_gap:
                part.blame(Fault.TOO_CLOSE, "the part before it is rejected")
            elif self._chain_behind_rejects(part):
                part.blame(Fault.TOO_CLOSE, "a part behind it is not known to pass")
        part.due_ns, part.ejected = due_ns, not self._spares(part)
        if part.ejected:
            self._rejected_at = part.at
            actions.append(Eject(due_ns))

    def _spares(self, part: _Tracked) -> bool:
        """Whether the part, by itself, goes on."""
        if part.verdict is Verdict.PASS:
            return True
        if part.fault in (Fault.NO_VERDICT, Fault.SCORER):
            return self._settings.pass_missing
        if part.fault in (Fault.TOO_CLOSE, Fault.LOST_TRIGGER, Fault.BELT, Fault.ENCODER):
            return False
        return part.verdict is Verdict.FAULT and self._settings.pass_faults

    def _chain_behind_rejects(self, head: _Tracked) -> bool:
        """Whether one of the parts that follow without a gap is not known to go on."""
        before = head.at
        for index, part in enumerate(self._flight):
            if index == 0:
                continue
            if part.at - before >= self._settings.min_gap:
                return False
            if part.verdict is None or not self._spares(part) or self._zone_near(part.at) is not None:
                return True
            before = part.at
        return False

    def _settle(self, part: _Tracked, actions: list[Action]) -> None:
        counts = self.counts
        verdict = part.verdict or Verdict.FAULT
        if verdict is Verdict.PASS:
            counts.passed += 1
        elif verdict is Verdict.REJECT:
            counts.rejected += 1
        elif part.fault is not None:
            counts.faults[part.fault] = counts.faults.get(part.fault, 0) + 1
        actions.append(
            Settled(
                part=part.part,
                t_trigger_ns=part.t_ns,
                verdict=verdict,
                ejected=part.ejected,
                due_ns=part.due_ns,
                fault=part.fault,
                detail=part.detail,
            )
        )

    def _open_zone(self, begin: float, end: float) -> None:
        for part in self._leaving:
            if not part.ejected and part.at > begin - self._settings.min_gap:
                part.blame(Fault.LOST_TRIGGER, "triggers were lost near this part")
                part.ejected = True
        last = self._zones[-1] if self._zones else None
        if last is not None and begin - last.end < 2 * self._settings.min_gap:
            last.end = max(last.end, end)
            return
        self._zone_number += 1
        self._zones.append(_Zone(f"lost-{self._zone_number}", begin, end))

    def _zone_near(self, at: float) -> _Zone | None:
        gap = self._settings.min_gap
        return next((z for z in self._zones if z.begin - gap < at < z.end + gap), None)

    def _advance_holds(self, now_ns: int, actions: list[Action]) -> None:
        for zone in self._zones:
            begin = self._due_time(zone.begin, now_ns)
            if not zone.on and begin is not None and now_ns >= begin - self._early_ns:
                zone.on = True
                actions.append(HoldFrom(zone.name, begin))
        while self._zones and self._zones[0].on:
            zone = self._zones[0]
            end = self._due_time(zone.end, now_ns)
            # The parts near its end must have been decided on before it is forgotten.
            if end is None or now_ns < end + self._settings.reach_ns or self._near_undecided(zone):
                return
            actions.append(HoldUntil(zone.name, end + self._settings.reach_ns))
            self._zones.popleft()

    def _near_undecided(self, zone: _Zone) -> bool:
        return bool(self._flight) and self._flight[0].at < zone.end + self._settings.min_gap
