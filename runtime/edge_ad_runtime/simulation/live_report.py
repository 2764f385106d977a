"""What a simulation in real time shows, worked out afterwards: from the logged commands of the output, against the belt's
motion, and from the records of the parts."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.line.summary import LineSummary
from edge_ad_runtime.simulation.faults import Kind
from edge_ad_runtime.simulation.live_camera import shown
from edge_ad_runtime.simulation.motion import Motion
from edge_ad_runtime.simulation.report import PERHAPS, Live, SimReport
from edge_ad_runtime.simulation.scene import EJECTOR_NS, Scene
from edge_ad_runtime.simulation.view import Article, Window
from edge_ad_runtime.tracking.tracker import Settled
from edge_ad_runtime.verdict import Verdict

# A pulse does not begin earlier than this before its deadline, or it is another one's.
_EARLY_NS = 5_000_000


class _Command(msgspec.Struct):
    t_monotonic_ns: int
    active: bool


@dataclass(frozen=True)
class LiveRun:
    """A run that has ended. Times are nanoseconds from the belt's start at ``start_ns``, monotonic.

    ``edges``: what the photo-eye told and somebody heard, and of which article (None: of nothing). ``dead``: when the
    ejector did not act. ``end_ns``: the end, early if ``stopped``.
    """

    scene: Scene
    articles: Sequence[Article]
    motion: Motion
    start_ns: int
    end_ns: int
    stopped: bool
    edges: Sequence[tuple[int, int | None]]
    dead: Sequence[tuple[int, int]]
    output_log: Path
    events: Sequence[PartEvent]
    summary: LineSummary
    injected: Counter[Kind]
    crashes: int
    belt_late_ns: int
    ejector_lead_ns: int
    seed: int


def report_of(run: LiveRun, report: SimReport) -> SimReport:
    """Complete the report."""
    commands = _rejecting(run)
    acted = _acted(run, commands)
    window = Window(run.scene, run.motion, acted)
    # The model's own word on an image, where it gave one.
    rejected = {
        name: event.score > event.threshold
        for event in run.events
        if event.score is not None and (name := shown(event.source)) is not None
    }
    owners, lost = _owners(run)
    records: dict[int, Settled] = {}
    for event in sorted(run.events, key=lambda e: e.part):
        index = owners.get(event.part)
        if index is not None and not (index in records and records[index].ejected):
            records[index] = _settled(event)
    gone = run.motion.at(run.end_ns)
    for index, article in enumerate(run.articles):
        if (
            run.stopped
            and article.place + run.scene.window_until + 2 * run.scene.longest + run.scene.gap_mm > gone
        ):
            break
        looks = article.looks
        if looks.name in rejected and looks.bad:
            looks = type(looks)(looks.bad, rejected[looks.name], looks.name)
        report.judge(
            index + 1, looks, window.struck(article) is not None, records.get(index), lost=index in lost
        )
    _count(run, report, owners)
    report.live = _live(run, commands, len(lost))
    return report


def _rejecting(run: LiveRun) -> list[tuple[int, bool]]:
    """When the output began to reject, and ended."""
    if not run.output_log.exists():
        return []
    decode = msgspec.json.Decoder(_Command).decode
    changes: list[tuple[int, bool]] = []
    level = False
    for line in run.output_log.read_bytes().splitlines():
        command = decode(line)
        # drives() is its own inverse.
        rejects = run.scene.timing.drives(command.active)
        if rejects is not level:
            level = rejects
            changes.append((command.t_monotonic_ns - run.start_ns, level))
    return changes


def _acted(run: LiveRun, commands: Sequence[tuple[int, bool]]) -> list[tuple[int, int]]:
    """When the ejector acted: its own time after each command, more or less, never before it was told."""
    rng = random.Random(run.seed)
    moved = -(1 << 62)
    since: int | None = None
    acted: list[tuple[int, int]] = []
    for t, rejects in commands:
        lag = run.ejector_lead_ns + (rng.random() * 2 - 1) * EJECTOR_NS
        moved = max(t + round(max(lag, 0.0)), moved + 1)
        if rejects:
            since = moved
        elif since is not None:
            acted.append((since, moved))
            since = None
    if since is not None:
        acted.append((since, max(run.end_ns, since + 1)))
    alive: list[tuple[int, int]] = []
    for begin, end in acted:
        if any(dead <= begin < back for dead, back in run.dead):
            continue
        cut = min([dead for dead, _ in run.dead if begin <= dead < end], default=end)
        alive.append((begin, cut))
    return alive


def _owners(run: LiveRun) -> tuple[dict[int, int | None], set[int]]:
    """Of which article each record is, and the articles whose records died with a scorer: the guard numbers its parts, so
    a record that is missing between two others was there."""
    by_time = {event.t_monotonic_ns: event.part for event in run.events}
    debounce = run.scene.track.debounce_ns
    owners: dict[int, int | None] = {}
    missing: list[tuple[int, int | None]] = []
    last_t, last_part = -(1 << 62), None
    for t, index in run.edges:
        part = by_time.get(t + run.start_ns)
        if part is not None:
            owners[part] = index
        elif t - last_t < debounce:
            # What came just before, and was nothing, stands for it: this was taken for its bounce.
            if last_part is not None and owners[last_part] is None:
                owners[last_part] = index
            continue
        else:
            missing.append((t, index))
        last_t, last_part = t, part
    told = sorted((event.part, event.t_monotonic_ns - run.start_ns) for event in run.events)
    summary = run.summary
    if not summary.guard_restarts:
        told.append((summary.triggers - summary.bounces + 1, 1 << 62))
    lost: set[int] = set()
    before_part, before_t = 0, -(1 << 62)
    for number, at in told:
        between = [index for t, index in missing if before_t < t < at]
        lost.update(i for i in between[: max(number - before_part - 1, 0)] if i is not None)
        before_part, before_t = number, at
    return owners, lost


def _settled(event: PartEvent) -> Settled:
    return Settled(
        part=event.part,
        t_trigger_ns=event.t_monotonic_ns,
        verdict=Verdict(event.verdict),
        ejected=bool(event.ejected),
        due_ns=0,
        fault=event.fault_kind,
        detail=event.fault,
    )


def _due_ns(run: LiveRun, event: PartEvent) -> float:
    """When the part of this record is before the ejector, from the belt's start."""
    t = event.t_monotonic_ns - run.start_ns
    if run.scene.mm_per_count is None:
        return t + run.scene.track.travel
    return run.motion.time_at(run.motion.at(t) + run.scene.track.travel * run.scene.mm_per_count)


def _count(run: LiveRun, report: SimReport, owners: dict[int, int | None]) -> None:
    summary, track = run.summary, run.scene.track
    faults = Counter(event.fault_kind.value for event in run.events if event.fault_kind is not None)
    report.faults = dict(sorted(faults.items()))
    report.injected = {kind.value: count for kind, count in sorted(run.injected.items())}
    report.ghosts = sum(index is None for index in owners.values())
    report.bounces, report.lost_triggers = summary.bounces, summary.lost_triggers
    report.late_verdicts = summary.late_verdicts
    if summary.outputs:
        first = summary.outputs[0]
        report.pulses, report.late_pulses, report.missed_pulses = first.pulses, first.late, first.missed
    margins: list[float] = []
    changes: list[tuple[float, int]] = []
    for event in run.events:
        decided = _due_ns(run, event) - track.lead_ns - track.ahead_ns
        if math.isinf(decided):
            continue
        heard = event.t_monotonic_ns - run.start_ns
        changes += [(heard, 1), (decided, -1)]
        if event.verdict == "pass" and event.latency_ms is not None:
            margins.append(decided - heard - event.latency_ms * 1e6)
    in_flight = 0
    for _, change in sorted(changes):
        in_flight += change
        report.most_in_flight = max(report.most_in_flight, in_flight)
    if margins:
        report.worst_margin_ms = round(min(margins) / 1e6, 3)
    report.virtual_s = round(run.end_ns / 1e9, 3)
    report.per_minute = round(report.parts / report.virtual_s * 60, 1) if run.end_ns > 0 else 0.0


def _pulse_delays(run: LiveRun, commands: Sequence[tuple[int, bool]]) -> tuple[list[float], int]:
    """How far off its deadline each pulse began, in ns, where it was not one with another or with a hold; and how many
    did not come."""
    timing = run.scene.timing
    delays: list[float] = []
    absent = 0
    for event in run.events:
        if not event.ejected or event.fault_kind in PERHAPS:
            continue
        deadline = _due_ns(run, event) + timing.delay_ns - timing.lead_ns
        if deadline > run.end_ns:
            continue
        before = [level for t, level in commands if t < deadline - _EARLY_NS]
        if before and before[-1]:
            continue
        begins = [t for t, level in commands if level and -_EARLY_NS <= t - deadline <= timing.pulse_ns]
        if begins:
            delays.append(begins[0] - deadline)
        else:
            absent += 1
    return delays, absent


def _live(run: LiveRun, commands: Sequence[tuple[int, bool]], lost: int) -> Live:
    delays, absent = _pulse_delays(run, commands)
    off = np.abs(np.array(delays, float)) / 1e6
    latencies = np.array([e.latency_ms for e in run.events if e.latency_ms is not None], float)

    def quantile(values: np.ndarray[tuple[int], np.dtype[np.float64]], q: float) -> float | None:
        return round(float(np.quantile(values, q)), 3) if len(values) else None

    return Live(
        pulses=len(delays),
        absent=absent,
        p50_ms=quantile(off, 0.5),
        p99_ms=quantile(off, 0.99),
        worst_ms=quantile(off, 1.0),
        scorer_ms_p50=quantile(latencies, 0.5),
        scorer_ms_p99=quantile(latencies, 0.99),
        crashes=run.crashes,
        guard_restarts=run.summary.guard_restarts,
        scorer_losses=run.summary.scorer_losses,
        lost_records=lost,
        belt_late_ms=round(run.belt_late_ns / 1e6, 3),
        stopped=run.stopped,
    )
