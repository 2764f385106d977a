"""One line for some thousand parts: the belt's physics on one side, the true tracking core on the other."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from functools import partial

from edge_ad_runtime.simulation.agenda import Agenda
from edge_ad_runtime.simulation.course import SHORTEST_SLEEP_NS, lay_out, photo_eye, plan_motion, whole_way
from edge_ad_runtime.simulation.ejector import SimEjector
from edge_ad_runtime.simulation.faults import Kind
from edge_ad_runtime.simulation.scene import BELT_SIGNAL_NS, TURN_NS, Scene
from edge_ad_runtime.simulation.station import MESSAGE_NS, Answer, SimStation
from edge_ad_runtime.simulation.truth import Truth
from edge_ad_runtime.simulation.view import Window
from edge_ad_runtime.tracking.belt import EncodedBelt, TimedBelt
from edge_ad_runtime.tracking.tracker import Action, Eject, HoldFrom, HoldUntil, Settled, Tracker
from edge_ad_runtime.verdict import Verdict

_S = 1_000_000_000


class World:
    """Everything that happens in one episode. After :meth:`run`, what became of everybody is in the fields."""

    def __init__(
        self,
        scene: Scene,
        truth: Truth,
        kinds: frozenset[Kind],
        count: int,
        bad_share: float,
        rng: random.Random,
    ) -> None:
        self.scene = scene
        self.kinds = kinds
        self.articles, doubles = lay_out(scene, kinds, truth, count, bad_share, rng)
        self.injected: Counter[Kind] = Counter()
        if doubles:
            self.injected[Kind.DOUBLE] = doubles
        self._rng = rng
        self._agenda = Agenda()
        way = whole_way(scene, self.articles)
        self.motion, self._spells = plan_motion(scene, kinds, way, rng)
        self.end_ns = round(self.motion.time_at(way)) + 2 * scene.track.reach_ns + _S
        self._encoded = EncodedBelt() if scene.mm_per_count is not None else None
        self.tracker = Tracker(scene.track, self._encoded or TimedBelt())
        self.ejector = SimEjector(scene.timing, self._agenda, rng)
        self.station = SimStation(
            scene, self.articles, self.motion, kinds, self._agenda, rng, self._answered, self._count
        )
        self._count_from_mm = 0.0
        self._counted = 0
        self._encoder_out = False
        self._trigger_out = False
        self._wake: int | None = None
        self._done = False
        self._lost = 0
        self._edge_read = 0
        self._greeted = True
        self._life = 0
        self._window: Window | None = None
        self.article_of: dict[int, int | None] = {}
        """The guard's number of a part: which article it is; None: nothing at all."""
        self.answers: dict[int, tuple[int, Answer]] = {}
        self.settled: dict[int, tuple[int, Settled]] = {}
        self.ejects: list[int] = []
        self.decided: dict[int, int] = {}
        self.log: list[tuple[int, str]] = []
        """What the guard did and heard, apart from parts."""

    def _count(self, kind: Kind) -> None:
        self.injected[kind] += 1

    # Before it begins

    def _schedule(self) -> None:
        at, rng = self._agenda.at, self._rng
        for spell in self._spells:
            self._count(spell.kind)
            begin, end = spell.begin_ns, spell.end_ns
            if spell.kind is Kind.STALL:
                at(begin, self.station.stall)
                at(begin + self.scene.silence_ns, partial(self._notice_silence, end))
                at(end, self._go_on)
            elif spell.kind is Kind.CRASH:
                at(begin, self._crash)
                at(end, self._restart)
            elif spell.kind is Kind.CAMERA_LOSS:
                at(begin, partial(self.station.set_camera, False))
                at(end, partial(self.station.set_camera, True))
            elif spell.kind is Kind.TRIGGER_LOSS:
                at(begin, self._trigger_dies)
                # A device on a bus is missed only some time later.
                travel_ns = self.scene.travel_mm / self.scene.speed * _S
                late = rng.random() * min(0.2 * travel_ns, end - begin)
                at(begin + late, partial(self._trigger_lost, begin))
                at(end, self._trigger_found)
            elif spell.kind in (Kind.ENCODER_LOSS, Kind.SILENT_ENCODER):
                silent = spell.kind is Kind.SILENT_ENCODER
                at(begin, partial(self._encoder_lost, silent))
                at(end, partial(self._encoder_found, silent))
            elif spell.kind is Kind.STOP and self._encoded is None:
                at(begin + rng.random() * BELT_SIGNAL_NS, self._belt_stopped)
                at(end + rng.random() * BELT_SIGNAL_NS, self._belt_started)
            elif spell.kind is Kind.DEAD_OUTPUT:
                at(begin, partial(self._output, True))
                at(end, partial(self._output, False))
        if self._encoded is not None:
            for t in self.motion.changes:
                at(t + 1, self._turn)
        self._schedule_edges()

    def _schedule_edges(self) -> None:
        seen_by_eye = photo_eye(
            self.scene, self.kinds, self.articles, self.motion, self._spells, self._rng, self._count
        )
        for seen in seen_by_eye:
            if seen.what == "lost":
                self._agenda.at(seen.t_ns, self._lose)
            elif seen.what == "ghost":
                self._agenda.at(seen.t_ns, self._ghost)
            else:
                self._agenda.at(seen.t_ns, partial(self._edge, seen.index))

    # The guard's side, as in edge_ad_runtime.guard.core

    def run(self) -> None:
        """From the guard's start until the last part has left."""
        self._schedule()
        self._agenda.at(0, self._start)
        self._agenda.at(self.end_ns, self._finish)
        self.end_ns = self._agenda.run(lambda: self._done)
        self.ejector.finish(self.end_ns)

    def _start(self, now_ns: int) -> None:
        self.tracker.begin(now_ns)
        self.tracker.scorer(True)
        self._turn(now_ns)

    def _finish(self, now_ns: int) -> None:
        """The end comes when everything is at rest."""
        self._turn(now_ns)
        self._done = True

    def _after(self, now_ns: int) -> int:
        """When the guard's loop gets to what has just happened."""
        return now_ns + round(self._rng.random() ** 6 * TURN_NS)

    def _read_at(self, now_ns: int) -> int:
        """When an edge of the trigger is read: in the order in which they came."""
        self._edge_read = max(self._after(now_ns), self._edge_read)
        return self._edge_read

    def _turn(self, now_ns: int) -> None:
        self._read_encoder(now_ns)
        self._apply(self.tracker.advance(now_ns), now_ns)
        self._sleep(now_ns)

    def _woken(self, planned_ns: int, now_ns: int) -> None:
        # An earlier time was planned meanwhile, and has done this one's work.
        if self._wake == planned_ns:
            self._wake = None
            self._turn(now_ns)

    def _sleep(self, now_ns: int) -> None:
        due = self.tracker.next_time(now_ns)
        edge = self._next_unsteady_edge(now_ns)
        if edge is not None and (due is None or edge < due):
            due = edge
        if due is None:
            return
        wake = self._after(max(due, now_ns + SHORTEST_SLEEP_NS))
        if self._wake is None or wake < self._wake:
            self._wake = wake
            self._agenda.at(wake, partial(self._woken, wake))

    def _next_unsteady_edge(self, now_ns: int) -> int | None:
        """The guard wakes at each of the encoder's edges; at a constant speed they tell it nothing new."""
        mm = self.scene.mm_per_count
        if mm is None or self._encoder_out:
            return None
        t = self.motion.time_at(self._count_from_mm + (self._counted + 1) * mm)
        since = self.motion.time_at(self._count_from_mm + (self._counted - 5) * mm)
        if t == float("inf") or self.motion.steady(since, t):
            return None
        return round(t) + 1

    def _read_encoder(self, now_ns: int) -> None:
        mm, belt = self.scene.mm_per_count, self._encoded
        if mm is None or belt is None or self._encoder_out:
            return
        motion, zero = self.motion, self._count_from_mm
        reached = int((motion.at(now_ns) - zero) / mm)
        while self._counted < reached:
            self._counted += 1
            belt.edge(min(round(motion.time_at(zero + self._counted * mm)), now_ns), self._counted)

    def _apply(self, actions: Iterable[Action], now_ns: int) -> None:
        for action in actions:
            if isinstance(action, Settled):
                self.settled[action.part] = now_ns, action
                self._agenda.at(now_ns + MESSAGE_NS, partial(self._tell_settled, action.part))
            elif isinstance(action, Eject):
                self.ejects.append(action.at_ns)
                self.log.append((now_ns, f"a pulse for {action.at_ns / _S:.4f} s"))
                self.ejector.eject(action.at_ns, now_ns, whole=action.whole)
            elif isinstance(action, HoldFrom):
                self.log.append((now_ns, f"hold {action.name} from {action.at_ns / _S:.4f} s"))
                self.ejector.hold_from(action.name, action.at_ns, now_ns)
            elif isinstance(action, HoldUntil):
                self.log.append((now_ns, f"hold {action.name} until {action.at_ns / _S:.4f} s"))
                self.ejector.hold_until(action.name, action.at_ns, now_ns)
        decided = self.tracker.counts.parts - self.tracker.in_flight
        for part in range(len(self.decided) + 1, decided + 1):
            self.decided[part] = now_ns

    def _tell_settled(self, part: int, now_ns: int) -> None:
        self.station.settled = max(self.station.settled, part)

    # What happens

    def _edge(self, index: int | None, now_ns: int) -> None:
        if self._trigger_out:
            return
        lost, self._lost = self._lost, 0
        self._agenda.at(self._read_at(now_ns), partial(self._triggered, index, now_ns, lost))

    def _ghost(self, now_ns: int) -> None:
        if not self._trigger_out and self.motion.speed(now_ns) > 0:
            lost, self._lost = self._lost, 0
            self._agenda.at(self._read_at(now_ns), partial(self._triggered, None, now_ns, lost))

    def _lose(self, now_ns: int) -> None:
        if not self._trigger_out:
            self._lost += 1

    def _triggered(self, index: int | None, t_ns: int, lost: int, now_ns: int) -> None:
        self._read_encoder(now_ns)
        parts = self.tracker.counts.parts
        part, actions = self.tracker.trigger(t_ns, now_ns, lost)
        for new in range(parts + 1, self.tracker.counts.parts + 1):
            self.article_of[new] = index
        if self.article_of.get(parts, index) is None:
            # What came just before, and was nothing, stands for it: this is taken for its bounce.
            self.article_of[parts] = index if self.tracker.counts.parts == parts else None
        self._apply(actions, now_ns)
        if part is not None and self._greeted:
            self._agenda.at(now_ns + MESSAGE_NS, partial(self._told, part, t_ns, self._life))
        self._turn(now_ns)

    def _told(self, part: int, t_ns: int, life: int, now_ns: int) -> None:
        if life == self._life:
            self.station.hear(part, t_ns, now_ns)

    def _answered(self, now_ns: int, answer: Answer) -> None:
        self._agenda.at(self._after(now_ns + MESSAGE_NS), partial(self._heard, answer))

    def _heard(self, answer: Answer, now_ns: int) -> None:
        self.answers.setdefault(answer.part, (now_ns, answer))
        self.tracker.verdict(answer.part, answer.verdict, answer.fault, answer.detail)
        self._turn(now_ns)

    def _note(self, now_ns: int, text: str) -> None:
        self.log.append((now_ns, text))

    def _notice_silence(self, until_ns: int, now_ns: int) -> None:
        if now_ns < until_ns and not self.station.running:
            self._note(now_ns, "the scorer is silent")
            self.tracker.scorer(False)

    def _go_on(self, now_ns: int) -> None:
        self.station.go_on(now_ns)
        if self._greeted:
            self.tracker.scorer(True)

    def _crash(self, now_ns: int) -> None:
        self._note(now_ns, "the scorer is gone")
        self.station.die()
        self._greeted = False
        self._life += 1
        self.tracker.scorer(False)

    def _restart(self, now_ns: int) -> None:
        self._note(now_ns, "the scorer is back")
        self.station.live(now_ns)
        self._greeted = True
        self.tracker.scorer(True)

    def _trigger_dies(self, now_ns: int) -> None:
        self._trigger_out = True

    def _trigger_lost(self, since_ns: int, now_ns: int) -> None:
        self._note(now_ns, "the trigger is out of order")
        self._read_encoder(now_ns)
        self.tracker.blind(now_ns, since_ns)
        self._turn(now_ns)

    def _trigger_found(self, now_ns: int) -> None:
        self._note(now_ns, "the trigger works again")
        self._read_encoder(now_ns)
        self._trigger_out = False
        self.tracker.sighted(now_ns)
        self._turn(now_ns)

    def _encoder_lost(self, silent: bool, now_ns: int) -> None:
        if self._encoder_out or self._encoded is None:
            return
        self._read_encoder(now_ns)
        self._encoder_out = True
        if not silent:
            self._note(now_ns, "the encoder is out of order")
            self._apply(self.tracker.encoder_lost(now_ns), now_ns)
            self._turn(now_ns)

    def _encoder_found(self, silent: bool, now_ns: int) -> None:
        mm = self.scene.mm_per_count
        if not self._encoder_out or self._encoded is None or mm is None:
            return
        self._encoder_out = False
        self._count_from_mm = self.motion.at(now_ns) - (self._counted * mm if silent else 0.0)
        if not silent:
            self._counted = 0
            self._note(now_ns, "the encoder works again")
            self._encoded.resume()
            self.tracker.encoder_found(now_ns)
        self._turn(now_ns)

    def _belt_stopped(self, now_ns: int) -> None:
        self._note(now_ns, "the belt stops")
        self._apply(self.tracker.belt_stopped(now_ns), now_ns)
        self._turn(now_ns)

    def _belt_started(self, now_ns: int) -> None:
        self._note(now_ns, "the belt runs")
        self._apply(self.tracker.belt_started(now_ns), now_ns)
        self._turn(now_ns)

    def _output(self, dead: bool, now_ns: int) -> None:
        self._note(now_ns, "the ejector does not act" if dead else "the ejector acts again")
        if dead:
            self.ejector.finish(now_ns)
        self.ejector.dead = dead

    # Afterwards

    def removed_by(self, index: int) -> tuple[int, int] | None:
        """The first time that the ejector acted with the article before it; None: it went on."""
        if self._window is None:
            self._window = Window(self.scene, self.motion, self.ejector.acted)
        return self._window.struck(self.articles[index])

    @property
    def worst_margin_ns(self) -> int | None:
        """The least time between a verdict ``pass`` that counted and the decision on its part."""
        margins = [
            self.decided[part] - heard
            for part, (heard, answer) in self.answers.items()
            if answer.verdict is Verdict.PASS
            and part in self.decided
            and part in self.settled
            and self.settled[part][1].verdict is Verdict.PASS
        ]
        return min(margins, default=None)
