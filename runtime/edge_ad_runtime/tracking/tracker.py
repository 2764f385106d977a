"""Every part from its trigger to its ejector: what is due when, and what was decided.

A part is decided on just before its pulse would have to begin. Only a verdict ``pass`` that has come by then spares
it; everything else, silence included, rejects it, unless the policy says otherwise. So a scorer that is late, stopped
or dead lets no part through.

Two parts that are closer together than ``min_gap`` cannot be told apart by a pulse. Where one of them is rejected, the
other may have been struck, and is told as ``too_close``, even if its own verdict was ``pass``; it gets no pulse of its
own, for that would strike its other neighbour in turn. Where triggers were lost, or came while the trigger, the encoder or
the belt was out of order, unknown parts may lie anywhere in a zone of the belt: the whole zone is rejected by a hold.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import msgspec

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.tracking.belt import Belt
from edge_ad_runtime.verdict import Fault, Verdict

_LOST = "triggers were lost near this part"


class TrackSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``travel`` and ``min_gap`` are in the belt's unit (:mod:`edge_ad_runtime.tracking.belt`): the way from the trigger
    to where the pulse begins to act, and the distance below which a pulse for one part may strike the other.

    ``lead_ns`` is how long before that the outputs have to be told at the latest, ``reach_ns`` how long after it the last
    of them acts. A part is decided on ``ahead_ns`` before the outputs have to be told. Triggers nearer than
    ``debounce_ns`` to the one before are bounces. More than ``max_in_flight`` undecided parts are an overrun.
    ``pass_missing`` and ``pass_faults`` pass a part without a verdict in time, and one that could not be inspected.
    ``steady_ns`` is how long a belt without an encoder takes to run at its speed after a stop. Two triggers between which
    an encoded belt has gone less than ``min_advance`` counts contradict the encoder: it is taken for dead (0: no such
    check).

    With an encoder, ``view_from_ns`` and ``view_until_ns`` after its trigger is the time in which a part's frame is
    exposed; it must then have gone ``view_from`` to ``view_until``, or the frame shows another place (None: no such
    check, for a camera that sees the part all the way).
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
    view_from_ns: int = 0
    view_until_ns: int = 0
    view_from: float = 0.0
    view_until: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.min_gap < self.travel:
            raise InputError(
                f"travel={self.travel:g}, min_gap={self.min_gap:g}: min_gap must be above 0 and below travel"
            )


class Settled(msgspec.Struct, frozen=True, kw_only=True, tag="settled", omit_defaults=True):
    """What became of a part, told when it has left the ejector's reach. ``ejected``: a pulse or a hold was meant for it,
    or for something so near (``too_close``, ``lost_trigger``, ``belt_stopped``) that it may have been struck.
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
    """Positions of triggers between which unknown parts may lie; ``end`` is infinite while it goes on. ``on``: its hold
    was told to begin, ``over``: to end."""

    name: str
    begin: float
    end: float
    on: bool = False
    over: bool = False


class Tracker:
    """The parts between the trigger and the ejector. Every method is told the time, which must not run backwards."""

    def __init__(self, settings: TrackSettings, belt: Belt, first_part: int = 1) -> None:
        self._settings = settings
        self._belt = belt
        self._next_part = first_part
        # Decided on later, in view of the camera, and decided on but not yet out of the ejector's reach.
        self._flight: deque[_Tracked] = deque()
        self._viewed: deque[_Tracked] = deque()
        self._leaving: deque[_Tracked] = deque()
        self._zones: list[_Zone] = []
        self._zone_number = 0
        self._blind: set[str] = set()
        self._last: tuple[int, float] | None = None
        # Where the latest part that left by its own pulse was triggered.
        self._struck_at = -math.inf
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

        A trigger that is told after a later one counts as lost: its part is rejected unseen.

        Returns:
            The part's number if the scorer should inspect it; and what has to be done at once.
        """
        counts, s = self.counts, self._settings
        counts.triggers += 1
        counts.lost_triggers += lost
        at = self._belt.position(t_ns)
        if lost:
            self._open_zone(at - s.travel if self._last is None else min(self._last[1], at), at)
        if self._last is not None and t_ns - self._last[0] < s.debounce_ns:
            if self._last[0] - t_ns < s.debounce_ns:
                counts.bounces += 1
            else:
                counts.lost_triggers += 1
                self._open_zone(at, at)
            return None, []
        actions: list[Action] = []
        contradicted = self._last is not None and at - self._last[1] < s.min_advance
        if contradicted:
            self._encoder_dead(at, now_ns, "parts went by while the encoder stood still", actions)
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
        elif s.view_until is not None:
            self._viewed.append(part)
        self._flight.append(part)
        counts.most_in_flight = max(counts.most_in_flight, len(self._flight))
        return (part.part if part.verdict is None else None), actions

    def begin(self, now_ns: int) -> None:
        """Nobody knows of what lies between the trigger and the ejector now, so it is rejected."""
        at = self._belt.position(now_ns)
        self._open_zone(at - self._settings.travel, at)

    def blind(self, now_ns: int, since_ns: int | None = None) -> None:
        """The trigger is out of order, and has been since ``since_ns``: what passes it is rejected unseen."""
        self._go_blind("trigger", self._belt.position(now_ns if since_ns is None else min(since_ns, now_ns)))

    def sighted(self, now_ns: int) -> None:
        """The trigger works again."""
        self._see("trigger", now_ns)

    def end_triggers(self, now_ns: int) -> None:
        """No more triggers are taken: what passes the trigger from now on is nobody's."""
        self._blind.clear()
        self._end_blindness(now_ns)

    def encoder_lost(self, now_ns: int) -> list[Action]:
        """The encoder is out of order: what is on the belt is rejected, and what comes until :meth:`encoder_found`."""
        actions: list[Action] = []
        here = self._belt.position(now_ns)
        self._encoder_dead(here, now_ns, "the encoder is out of order", actions)
        self._go_blind("encoder", here)
        return actions

    def encoder_found(self, now_ns: int) -> None:
        """The encoder works again: the hold ends when the belt has gone the whole way from here."""
        self._see("encoder", now_ns)

    def verdict(
        self,
        part: int,
        verdict: Verdict,
        fault: Fault | None = None,
        detail: str | None = None,
        *,
        t_trigger_ns: int | None = None,
    ) -> bool:
        """The scorer's word on a part; returns whether it came in time. The first word counts. One on a part that was
        triggered at another time than ``t_trigger_ns`` is none on this part (None: its number is enough)."""
        if part >= self._next_part:
            return False
        if self._flight and part >= self._flight[0].part:
            tracked = self._flight[part - self._flight[0].part]
            if t_trigger_ns is not None and t_trigger_ns != tracked.t_ns:
                self.counts.late_verdicts += 1
                return False
            if tracked.verdict is None:
                tracked.verdict, tracked.fault, tracked.detail = verdict, fault, detail
            return True
        self.counts.late_verdicts += 1
        return False

    def advance(self, now_ns: int) -> list[Action]:
        """Decide on everything that is due."""
        actions: list[Action] = []
        while self._viewed and now_ns >= self._viewed[0].t_ns + self._settings.view_until_ns:
            self._check_view(self._viewed.popleft())
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
        times: list[int] = []
        if self._viewed:
            times.append(self._viewed[0].t_ns + self._settings.view_until_ns)
        if self._flight and (due := self._due_time(self._flight[0].at, now_ns)) is not None:
            times.append(due - self._early_ns)
        if self._leaving and (out := self._out_time(self._leaving[0], now_ns)) is not None:
            times.append(out)
        for zone in self._zones:
            if zone.over and self._near_part(zone):
                continue
            at = self._due_time(zone.end if zone.on else zone.begin, now_ns)
            if at is not None:
                times.append(at if zone.over else at - self._early_ns)
        return min(times, default=None)

    def belt_stopped(self, now_ns: int) -> list[Action]:
        """The belt without an encoder has stopped: nobody knows any more where its parts are, so all of them go."""
        if self._stopped:
            return []
        self._stopped = True
        actions: list[Action] = [HoldFrom("belt", self._at_once(now_ns))]
        self._condemn_all(now_ns, Fault.BELT, "the belt stopped", actions)
        return actions

    def belt_started(self, now_ns: int) -> list[Action]:
        """It runs again: what stood on it is still rejected until it has passed the ejector."""
        if not self._stopped:
            return []
        s = self._settings
        self._stopped = False
        # What is triggered from here on is where its time says; the hold must not strike what comes behind it.
        told = now_ns + s.steady_ns + round(s.min_gap)
        self._steady_from = told + round(s.min_gap)
        return [HoldUntil("belt", self._hold_end(told + round(s.travel)))]

    @property
    def _early_ns(self) -> int:
        return self._settings.lead_ns + self._settings.ahead_ns

    def _at_once(self, now_ns: int) -> int:
        """A time for which every output would have to act by now."""
        return now_ns - self._settings.reach_ns

    def _hold_end(self, due_ns: int) -> int:
        """The end of a hold whose last part is due then: it reaches as far as that part's pulse would."""
        return due_ns + self._settings.reach_ns - self._settings.lead_ns

    def _due_time(self, at: float, now_ns: int) -> int | None:
        """When what was triggered there is before the ejector."""
        if at == math.inf:
            return None
        return self._belt.time_of(at + self._settings.travel, now_ns)

    def _out_time(self, part: _Tracked, now_ns: int) -> int | None:
        """When no pulse for another part reaches this one any more, and those for all that do are decided on."""
        s = self._settings
        out = self._belt.time_of(part.at + s.travel + s.min_gap, now_ns)
        return None if out is None else max(out, part.due_ns + s.reach_ns)

    def _left(self, part: _Tracked, now_ns: int) -> bool:
        out = self._out_time(part, now_ns)
        return out is not None and now_ns >= out

    def _check_view(self, part: _Tracked) -> None:
        s = self._settings
        if part.verdict is Verdict.REJECT or part.fault is not None or s.view_until is None:
            return
        begin = self._belt.position(part.t_ns + s.view_from_ns) - part.at
        end = self._belt.position(part.t_ns + s.view_until_ns) - part.at
        if begin < s.view_from or end > s.view_until:
            part.blame(Fault.BELT, "the belt was not at its speed when the part was before the camera")

    def _encoder_dead(self, at: float, now_ns: int, detail: str, actions: list[Action]) -> None:
        """Hold until the encoder has shown the whole way from here; what comes meanwhile is within the hold."""
        self._condemn_all(now_ns, Fault.ENCODER, detail, actions)
        here = self._belt.position(now_ns)
        zone = self._open_zone(here - self._settings.travel, max(here, at))
        if not zone.on:
            zone.on = True
            actions.append(HoldFrom(zone.name, self._at_once(now_ns)))

    def _condemn_all(self, now_ns: int, fault: Fault, detail: str, actions: list[Action]) -> None:
        """Every part up to the ejector's end goes, by a hold that has begun: nobody knows where it is."""
        self._leaving.extend(self._flight)
        self._flight.clear()
        self._viewed.clear()
        for part in self._leaving:
            if not part.ejected:
                if part.verdict is not Verdict.REJECT and part.fault is None:
                    part.blame(fault, detail)
                part.ejected, part.due_ns = True, now_ns
        while self._leaving:
            self._settle(self._leaving.popleft(), actions)

    def _decide(self, part: _Tracked, due_ns: int, actions: list[Action]) -> None:
        if self._viewed and self._viewed[0] is part:
            self._viewed.popleft()
            if part.verdict is Verdict.PASS:
                part.blame(Fault.BELT, "it was at the ejector before its frame was exposed")
        if part.verdict is None:
            part.blame(
                *(
                    (Fault.NO_VERDICT, "no verdict in time")
                    if self._scorer_here
                    else (Fault.SCORER, "the scorer is gone or silent")
                )
            )
        if self._spares(part) and any(zone.begin <= part.at <= zone.end for zone in self._zones):
            part.blame(Fault.LOST_TRIGGER, _LOST)
        part.due_ns, part.ejected = due_ns, not self._spares(part)
        if part.ejected:
            actions.append(Eject(due_ns))

    def _spares(self, part: _Tracked) -> bool:
        """Whether the part, by itself, goes on."""
        if part.verdict is Verdict.PASS:
            return True
        if part.fault in (Fault.NO_VERDICT, Fault.SCORER):
            return self._settings.pass_missing
        if part.fault in (Fault.LOST_TRIGGER, Fault.BELT, Fault.ENCODER):
            return False
        return part.verdict is Verdict.FAULT and self._settings.pass_faults

    def _settle(self, part: _Tracked, actions: list[Action]) -> None:
        if part.ejected:
            self._struck_at = part.at
        else:
            self._look_at_neighbours(part)
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

    def _look_at_neighbours(self, part: _Tracked) -> None:
        """Whether a pulse or a hold for something near may have struck a part that was to go on."""
        gap = self._settings.min_gap
        if any(zone.begin - gap < part.at < zone.end + gap for zone in self._zones):
            part.blame(Fault.LOST_TRIGGER, _LOST)
        elif part.at - self._struck_at < gap:
            part.blame(Fault.TOO_CLOSE, "the part before it was rejected")
        elif self._struck_behind(part.at + gap):
            part.blame(Fault.TOO_CLOSE, "the part behind it was rejected")
        else:
            return
        part.ejected = True
        # No pulse was given for this one, so its own neighbours are safe from it.

    def _struck_behind(self, until: float) -> bool:
        for behind in self._leaving:
            if behind.at >= until:
                return False
            if behind.ejected:
                return True
        return False

    def _go_blind(self, why: str, since: float) -> None:
        self._blind.add(why)
        self._open_zone(since, math.inf)

    def _see(self, why: str, now_ns: int) -> None:
        self._blind.discard(why)
        if not self._blind:
            self._end_blindness(now_ns)

    def _end_blindness(self, now_ns: int) -> None:
        for zone in self._zones:
            if zone.end == math.inf:
                zone.end = max(self._belt.position(now_ns), zone.begin)

    def _open_zone(self, begin: float, end: float) -> _Zone:
        last = self._zones[-1] if self._zones else None
        near = last is not None and last.begin <= begin < last.end + 2 * self._settings.min_gap
        if last is not None and near and not last.over:
            last.end = max(last.end, end)
            return last
        self._zone_number += 1
        zone = _Zone(f"lost-{self._zone_number}", begin, end)
        self._zones.append(zone)
        return zone

    def _advance_holds(self, now_ns: int, actions: list[Action]) -> None:
        kept: list[_Zone] = []
        for zone in self._zones:
            if not zone.on:
                begin = self._due_time(zone.begin, now_ns)
                if begin is not None and now_ns >= begin - self._early_ns:
                    zone.on = True
                    actions.append(HoldFrom(zone.name, begin))
            end = self._due_time(zone.end, now_ns) if zone.on else None
            if end is not None and not zone.over and now_ns >= end - self._early_ns:
                zone.over = True
                actions.append(HoldUntil(zone.name, self._hold_end(end)))
            # Parts near it have to be settled before it is forgotten.
            if end is None or now_ns < end or self._near_part(zone):
                kept.append(zone)
        self._zones = kept

    def _near_part(self, zone: _Zone) -> bool:
        """Whether a part that is near the zone's end, or ahead of it, is on its way."""
        first = self._leaving[0] if self._leaving else self._flight[0] if self._flight else None
        return first is not None and first.at < zone.end + self._settings.min_gap
