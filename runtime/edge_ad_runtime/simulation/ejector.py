"""The reject output and the ejector behind it."""

from __future__ import annotations

import random

from edge_ad_runtime.outputs.base import Timing
from edge_ad_runtime.simulation.agenda import Agenda
from edge_ad_runtime.simulation.scene import COMMAND_NS, EJECTOR_NS
from edge_ad_runtime.tracking.pulses import Pulse, PulsePlan


class SimEjector:
    """Plans as :class:`edge_ad_runtime.actuation.Actuator` does; a command takes up to :data:`COMMAND_NS`, and the
    ejector acts ``lead_ms`` after it, more or less."""

    def __init__(self, timing: Timing, agenda: Agenda, rng: random.Random) -> None:
        self._timing = timing
        self._agenda = agenda
        self._rng = rng
        self._plan = PulsePlan(timing.min_off_ns)
        self._level = False
        self._busy_until = 0
        self._planned: int | None = None
        self._since: int | None = None
        self._moved = 0
        self.dead = False
        self.acted: list[tuple[int, int]] = []
        """When the ejector acted, from and until, in ns."""
        self.pulses = 0
        self.late = 0

    @property
    def missed(self) -> int:
        return self._plan.missed

    @property
    def busy(self) -> bool:
        return self._plan.busy or self._level or self._since is not None

    def eject(self, at_ns: int, now_ns: int, *, whole: bool) -> None:
        timing = self._timing
        on = at_ns + timing.delay_ns - timing.lead_ns
        self.pulses += 1
        self.late += on < now_ns
        begin = max(on, now_ns) if whole else on
        self._plan.add(Pulse(begin, begin + timing.pulse_ns, whole))
        self._look_at(now_ns)

    def hold_from(self, name: str, at_ns: int, now_ns: int) -> None:
        self._plan.hold(name, at_ns + self._timing.delay_ns - self._timing.lead_ns)
        self._look_at(now_ns)

    def hold_until(self, name: str, at_ns: int, now_ns: int) -> None:
        self._plan.end_hold(name, at_ns + self._timing.delay_ns)
        self._look_at(now_ns)

    def _look_at(self, t_ns: int) -> None:
        """Have the worker wake up then; an earlier time that is planned already wakes it anyway."""
        if self._planned is None or t_ns < self._planned:
            self._planned = t_ns
            # The thread's wake-up is part of the command's time.
            self._agenda.at(t_ns + self._rng.random() ** 4 * COMMAND_NS / 2, self._step)

    def _step(self, now_ns: int) -> None:
        self._planned = None
        if now_ns < self._busy_until:
            self._look_at(self._busy_until)
            return
        level = self._plan.level(now_ns)
        if level is not self._level:
            self._level = level
            self._busy_until = now_ns + round(self._rng.random() ** 2 * COMMAND_NS / 2)
            lag = self._timing.lead_ns + (self._rng.random() * 2 - 1) * EJECTOR_NS
            # It cannot act before it was told, nor release before it acted.
            self._moved = max(round(self._busy_until + max(lag, 0)), self._moved + 1)
            self._agenda.at(self._moved, self._act if level else self._rest)
            self._look_at(self._busy_until)
            return
        edge = self._plan.next_edge(now_ns)
        if edge is not None:
            self._look_at(edge)

    def _act(self, now_ns: int) -> None:
        if not self.dead:
            self._since = now_ns

    def _rest(self, now_ns: int) -> None:
        if self._since is not None:
            self.acted.append((self._since, now_ns))
        self._since = None

    def finish(self, now_ns: int) -> None:
        """The end of the simulation."""
        self._rest(now_ns)
