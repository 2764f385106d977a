"""When an output is active: the union of its pulses and holds."""

from __future__ import annotations

from bisect import insort

import msgspec


class Pulse(msgspec.Struct, frozen=True, order=True):
    """Active from ``on_ns`` until before ``off_ns``, monotonic.

    ``whole``: a pulse that comes late is given in full length all the same. Otherwise it ends on time, since by then the
    next part stands before the ejector; one whose end has passed is not given any more.
    """

    on_ns: int
    off_ns: int
    whole: bool = False


class PulsePlan:
    """The pulses and holds of one output, and the level that they make.

    Pulses that overlap or touch, or that have less than ``min_off_ns`` between them, become one. A hold has no end until
    :meth:`end_hold` names it. ``late`` pulses began after their time, ``missed`` ones could not be begun before
    their end.
    """

    def __init__(self, min_off_ns: int = 0) -> None:
        self._min_off_ns = min_off_ns
        self._waiting: list[Pulse] = []
        self._active_until: int | None = None
        self._holds: dict[str, tuple[int, int | None]] = {}
        self.late = 0
        self.missed = 0

    def add(self, pulse: Pulse) -> None:
        """Give this pulse; its time may have come already."""
        insort(self._waiting, pulse)

    def hold(self, name: str, on_ns: int) -> None:
        """Be active from ``on_ns`` on until :meth:`end_hold`; a hold of this name that goes on is kept as it is."""
        begun, _ = self._holds.get(name, (on_ns, None))
        self._holds[name] = (min(begun, on_ns), None)

    def end_hold(self, name: str, off_ns: int) -> None:
        """The hold ends at ``off_ns``; unknown names are none."""
        if name in self._holds:
            self._holds[name] = (self._holds[name][0], off_ns)

    def level(self, now_ns: int) -> bool:
        """The level now, after beginning and ending what is due. Times given must not run backwards."""
        while self._waiting and self._waiting[0].on_ns <= now_ns:
            self._begin(self._waiting.pop(0), now_ns)
        if (
            self._active_until is not None
            and self._active_until <= now_ns
            and not (self._waiting and self._waiting[0].on_ns < self._active_until + self._min_off_ns)
        ):
            self._active_until = None
        self._holds = {n: (on, off) for n, (on, off) in self._holds.items() if off is None or off > now_ns}
        return self._active_until is not None or any(on <= now_ns for on, _ in self._holds.values())

    def _begin(self, pulse: Pulse, now_ns: int) -> None:
        off = pulse.off_ns
        if off <= now_ns:
            if not pulse.whole:
                self.missed += 1
                return
            off = now_ns + pulse.off_ns - pulse.on_ns
            self.late += 1
        self._active_until = max(self._active_until or off, off)

    def next_edge(self, now_ns: int) -> int | None:
        """When :meth:`level` has to be asked again, after ``now_ns``; None when nothing is planned."""
        times = [self._waiting[0].on_ns] if self._waiting else []
        if self._active_until is not None:
            times.append(self._active_until)
        for on, off in self._holds.values():
            times += [on] if off is None else [on, off]
        return min((t for t in times if t > now_ns), default=None)

    def until(self, now_ns: int) -> int | None:
        """Until when it stays active at least, as planned so far; None without an end. Asked after :meth:`level` was True.
        What is planned later may prolong it."""
        spans: list[tuple[int, int | None]] = [(p.on_ns - self._min_off_ns, p.off_ns) for p in self._waiting]
        spans += self._holds.values()
        end = self._active_until or now_ns
        for on, off in sorted(spans, key=lambda span: span[0]):
            if on > max(end, now_ns):
                break
            if off is None:
                return None
            end = max(end, off)
        return end

    @property
    def busy(self) -> bool:
        """Whether pulses wait or are under way; holds without an end do not count."""
        return bool(self._waiting) or self._active_until is not None

    @property
    def waiting(self) -> int:
        """Pulses that have not begun."""
        return len(self._waiting)

    def clear(self) -> int:
        """Drop everything; returns how many pulses had not begun."""
        dropped = len(self._waiting)
        self._waiting.clear()
        self._holds.clear()
        self._active_until = None
        return dropped
