"""What a simulation shows: who was bad, who was removed, and whether the records say so."""

from __future__ import annotations

from collections import Counter

import msgspec

from edge_ad_runtime.simulation.faults import Kind
from edge_ad_runtime.simulation.truth import Looks
from edge_ad_runtime.simulation.world import World
from edge_ad_runtime.tracking.tracker import Settled
from edge_ad_runtime.verdict import Fault, Verdict

# The record then says that the part may have been struck, not that it was.
PERHAPS = frozenset({Fault.TOO_CLOSE, Fault.LOST_TRIGGER, Fault.BELT, Fault.ENCODER})
_MOST_PROBLEMS = 100


class Problem(msgspec.Struct, frozen=True):
    """A part that ought not to have gone where it went; ``part`` is for ``--explain``."""

    part: int
    what: str


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """Of a run in real time.

    ``pulses``: those whose beginning could be told apart, of parts rejected by a pulse of their own; ``p50_ms``, ``p99_ms``
    and ``worst_ms``: how far off their deadlines they began (None: there were none); ``absent``: those that did not come.
    ``scorer_ms_p50``, ``scorer_ms_p99``: from the trigger to the verdict. ``crashes``: how often the scorer was killed;
    ``guard_restarts``, ``scorer_losses``: as in :class:`edge_ad_runtime.line.summary.LineSummary`. ``lost_records``: parts
    whose records died with a scorer. ``belt_late_ms``: by how much the modelled belt was late with a signal, at most; more
    than a few ms say that this machine is too busy to tell. ``stopped``: it was ended before all parts had passed.
    """

    pulses: int
    absent: int
    p50_ms: float | None
    p99_ms: float | None
    worst_ms: float | None
    scorer_ms_p50: float | None
    scorer_ms_p99: float | None
    crashes: int
    guard_restarts: int
    scorer_losses: int
    lost_records: int
    belt_late_ms: float
    stopped: bool


class SimReport(msgspec.Struct, kw_only=True):
    """Counts of parts, unless it says otherwise.

    ``bad``: with a defect. ``escapes``: bad and not removed; ``missed_by_model`` of them because the model passes their
    image. ``wrong_hits``: removed though the record says that they go on. ``kept``: not removed though the record says that
    they were. ``unseen``: those nobody made a record of; ``unseen_passed`` of them went on. ``good_passed``,
    ``good_rejected``: without a defect, on or removed; ``false_rejects``, of those removed, by the model's own verdict,
    ``fault_rejects`` (bad ones too) by a fault, by kind in ``faults``. ``injected``: the simulated troubles by kind, how
    often. ``ghosts``: records of what was no part. ``worst_margin_ms``: the least time between a verdict ``pass`` and the
    decision on its part. ``per_minute``: parts, in virtual time. ``live``: what only a run in real time shows.
    """

    parts: int = 0
    bad: int = 0
    escapes: int = 0
    missed_by_model: int = 0
    wrong_hits: int = 0
    kept: int = 0
    unseen: int = 0
    unseen_passed: int = 0
    good_passed: int = 0
    good_rejected: int = 0
    false_rejects: int = 0
    fault_rejects: int = 0
    ghosts: int = 0
    faults: dict[str, int] = {}
    injected: dict[str, int] = {}
    pulses: int = 0
    late_pulses: int = 0
    missed_pulses: int = 0
    late_verdicts: int = 0
    bounces: int = 0
    lost_triggers: int = 0
    most_in_flight: int = 0
    worst_margin_ms: float | None = None
    per_minute: float = 0.0
    virtual_s: float = 0.0
    wall_s: float = 0.0
    seed: int = 0
    unavoidable: list[str] = []
    problems: list[Problem] = []
    live: Live | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing escaped that the model did not miss, nothing was struck by mistake, and the records are
        true."""
        return not (self.escapes - self.missed_by_model or self.wrong_hits or self.kept or self.unseen_passed)

    def add(self, world: World, first: int) -> None:
        """Add a finished episode, whose parts are numbered from ``first``."""
        records = _records(world)
        for index, article in enumerate(world.articles):
            self.judge(first + index, article.looks, world.removed_by(index) is not None, records.get(index))
        tracker, ejector = world.tracker.counts, world.ejector
        self.ghosts += sum(index is None for index in world.article_of.values())
        self.pulses += ejector.pulses
        self.late_pulses += ejector.late
        self.missed_pulses += ejector.missed
        self.late_verdicts += tracker.late_verdicts
        self.bounces += tracker.bounces
        self.lost_triggers += tracker.lost_triggers
        self.most_in_flight = max(self.most_in_flight, tracker.most_in_flight)
        faults = Counter(self.faults)
        faults.update({fault.value: count for fault, count in tracker.faults.items()})
        self.faults = dict(sorted(faults.items()))
        injected = Counter(self.injected)
        injected.update({Kind(kind).value: count for kind, count in world.injected.items()})
        self.injected = dict(sorted(injected.items()))
        margin = world.worst_margin_ns
        if margin is not None:
            ms = round(margin / 1e6, 3)
            self.worst_margin_ms = ms if self.worst_margin_ms is None else min(ms, self.worst_margin_ms)
        self.virtual_s = round(self.virtual_s + world.end_ns / 1e9, 3)
        self.per_minute = round(self.parts / self.virtual_s * 60, 1)

    def judge(
        self, number: int, looks: Looks, removed: bool, record: Settled | None, *, lost: bool = False
    ) -> None:
        """Add a part by what became of it and what its record says; ``lost``: it had a record that died with the
        scorer."""
        bad, rejected = looks.bad, looks.rejected
        self.parts += 1
        self.bad += bad
        self.good_passed += not bad and not removed
        self.good_rejected += not bad and removed
        if bad and not removed:
            self.escapes += 1
            self.missed_by_model += not rejected
            if rejected:
                self._problem(number, "escaped: it is bad and was not removed")
        if lost:
            return
        if record is None:
            self.unseen += 1
            self.fault_rejects += removed
            self.unseen_passed += not removed
            if not removed and not (bad and rejected):
                self._problem(number, "passed unseen: nobody inspected it, and it was not removed")
            return
        fault = record.verdict is Verdict.FAULT
        self.fault_rejects += fault and removed
        self.false_rejects += record.verdict is Verdict.REJECT and removed and not bad
        if removed and not record.ejected:
            self.wrong_hits += 1
            self._problem(number, "struck by mistake: it was removed, the record says that it goes on")
        if not removed and record.ejected and record.fault not in PERHAPS:
            self.kept += 1
            self._problem(number, "kept: the record says that it was removed")

    def _problem(self, number: int, what: str) -> None:
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(Problem(number, what))


def _records(world: World) -> dict[int, Settled]:
    """The record of every article that has one. A part that was seen twice must have been meant to go on both times to
    count so."""
    records: dict[int, Settled] = {}
    for part, (_, settled) in sorted(world.settled.items()):
        index = world.article_of.get(part)
        if index is not None and not (index in records and records[index].ejected):
            records[index] = settled
    return records


def explain(world: World, index: int, number: int) -> str:
    """Everything that happened to one article, in the order of time."""
    article, scene, motion = world.articles[index], world.scene, world.motion
    looks = article.looks
    lines: list[tuple[float, str]] = []

    def passes(mm: float, text: str) -> None:
        lines.append((motion.time_at(mm), text))

    passes(article.place, "its front is at the photo-eye")
    passes(article.place + scene.window_from, "its front is at the ejector's window")
    passes(article.place + scene.travel_mm, "its front is where its pulse would begin to act")
    passes(article.place + scene.window_until + article.length, "its end leaves the window")
    for part, found in world.article_of.items():
        if found == index:
            lines += _story(world, part)
    begin, end = min(t for t, _ in lines), max(t for t, _ in lines)
    lines += [(t, text) for t, text in world.log if begin <= t <= end]
    margin = 2e8
    lines += [
        (since, f"the ejector acts until {until / 1e9:.4f} s")
        for since, until in world.ejector.acted
        if since <= end + margin and until >= begin - margin
    ]
    hit = world.removed_by(index)
    fate = "goes on" if hit is None else f"is removed by the pulse from {hit[0] / 1e9:.4f} s on"
    head = (
        f"part {number}: {'bad' if looks.bad else 'good'} ({looks.name}), "
        f"{article.length:.1f} mm long; it {fate}\n"
        f"belt {scene.speed:.0f} mm/s{'' if scene.mm_per_count is None else ', with an encoder'}; "
        f"travel {scene.travel_mm:.1f} mm, minimum gap {scene.gap_mm:.1f} mm, "
        f"{_distance(world, index, -1)} behind the part before it, {_distance(world, index, 1)} before the next"
    )
    return "\n".join([head, *(f"{t / 1e9:12.4f} s  {text}" for t, text in sorted(lines))])


def _distance(world: World, index: int, step: int) -> str:
    if not 0 <= index + step < len(world.articles):
        return "no distance"
    return f"{abs(world.articles[index + step].place - world.articles[index].place):.1f} mm"


def _story(world: World, part: int) -> list[tuple[float, str]]:
    lines: list[tuple[float, str]] = []
    if part in world.answers:
        t, answer = world.answers[part]
        lines.append((t, f"the scorer says {answer.verdict.value} ({answer.detail or 'by its image'})"))
        if answer.exposed_ns is not None:
            lines.append((answer.exposed_ns, "its frame is exposed"))
    if part in world.decided:
        lines.append((world.decided[part], "it is decided on"))
    if part in world.settled:
        t, settled = world.settled[part]
        lines.append((settled.t_trigger_ns, f"its trigger: the guard's part {part}"))
        how = "ejected" if settled.ejected else "goes on"
        lines.append(
            (
                t,
                f"its record: {settled.verdict.value}, {how}{f', {settled.detail}' if settled.detail else ''}",
            )
        )
    return lines
