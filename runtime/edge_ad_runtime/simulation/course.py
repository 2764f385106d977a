"""What the belt does and what its photo-eye sees, decided before it runs."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edge_ad_runtime.simulation.faults import MOST_SPELLS, SHARES, Kind, Spell, spells
from edge_ad_runtime.simulation.motion import Motion
from edge_ad_runtime.simulation.scene import COMMAND_NS, EJECTOR_NS, EYE_NS, TURN_NS, Scene
from edge_ad_runtime.simulation.truth import Truth
from edge_ad_runtime.simulation.view import Article

_S = 1_000_000_000
# The guard's loop does not sleep for less.
SHORTEST_SLEEP_NS = 200_000


def lay_out(
    scene: Scene, kinds: frozenset[Kind], truth: Truth, count: int, bad_share: float, rng: random.Random
) -> tuple[list[Article], int]:
    """The parts on the belt, the first of them as near to the ejector as one can be that a guard may still reject when it
    starts; and how many of them stand closer than the line is made for."""
    articles: list[Article] = []
    doubles = 0
    begins_ns = scene.timing.lead_ns + TURN_NS + COMMAND_NS + EJECTOR_NS + SHORTEST_SLEEP_NS
    place = min(0.0, scene.speed * begins_ns / _S + 2 * (scene.mm_per_count or 0.0) - scene.window_from)
    crowded = False
    while len(articles) < count:
        length = rng.uniform(scene.shortest, scene.longest)
        articles.append(Article(place, length, truth.draw(rng, rng.random() < bad_share)))
        if rng.random() < 0.05 and scene.crowds:
            crowded = not crowded
        if Kind.DOUBLE in kinds and rng.random() < SHARES[Kind.DOUBLE] and scene.closest > length:
            # Still two edges of the photo-eye, farther apart than its debounce time.
            doubles += 1
            place += rng.uniform(max(length, 0.75 * scene.closest), scene.closest)
        elif crowded:
            place += scene.closest * rng.uniform(1.0, 1.3)
        elif rng.random() < 0.02:
            place += scene.usual + rng.expovariate(1.0) * scene.travel_mm
        else:
            place += max(scene.closest, scene.usual * rng.uniform(0.8, 1.4))
    return articles, doubles


def whole_way(scene: Scene, articles: Sequence[Article]) -> float:
    """How far the belt goes until the last part has left everything behind, in mm."""
    return articles[-1].place + scene.window_until + 2 * scene.longest + scene.gap_mm


def plan_motion(
    scene: Scene, kinds: frozenset[Kind], way: float, rng: random.Random, most: int = MOST_SPELLS
) -> tuple[Motion, list[Spell]]:
    """How the belt runs for ``way`` mm, and which faults of some duration happen when, each kind up to ``most`` times."""
    motion = Motion(rng.uniform(scene.slowest, scene.speed) if scene.slowest < scene.speed else scene.speed)
    planned = spells(rng, kinds, round(0.2 * _S), round(0.95 * way / scene.speed * _S), most)
    taken: list[Spell] = []
    free = 0.0
    stopped = {Kind.STOP, Kind.SPEED, Kind.UNSEEN_SPEED}
    for spell in planned:
        begin, end = spell.begin_ns, spell.end_ns
        if spell.kind not in stopped:
            taken.append(spell)
            continue
        if begin < free:
            continue
        gain = scene.gain * rng.uniform(0.3, 1.0)
        before = motion.speed(begin) * 1e9
        if spell.kind is Kind.SPEED:
            free = motion.ramp(begin, rng.uniform(scene.slowest, scene.speed), gain)
        else:
            slow = 0.0 if spell.kind is Kind.STOP else 0.8 * before
            stands = motion.ramp(begin, slow, gain)
            end = round(max(stands + 1, end))
            # Back to its speed in no more than the line allows for.
            free = motion.ramp(end, before, scene.gain)
            # Sometimes it is stopped again before it has got anywhere.
            free += rng.choice([0.0, 0.5 * _S])
        taken.append(Spell(spell.kind, begin, end))
    return motion, taken


@dataclass(frozen=True)
class Seen:
    """What the photo-eye does at ``t_ns``: an ``edge`` of the article ``index``, an edge that the kernel has ``lost``, or
    a ``ghost``."""

    t_ns: float
    what: Literal["edge", "lost", "ghost"]
    index: int | None = None


def photo_eye(
    scene: Scene,
    kinds: frozenset[Kind],
    articles: Sequence[Article],
    motion: Motion,
    planned: Sequence[Spell],
    rng: random.Random,
    count: Callable[[Kind], None],
    away_ns: int = _S // 10,
) -> Iterator[Seen]:
    """All that it sees, bounces included, part after part, not quite in the order of time.

    Args:
        scene, kinds, articles, motion, planned: what there is, how it moves, what goes wrong.
        rng: the reaction times and faults.
        count: is told of every fault.
        away_ns: for so long a trigger or an encoder may be away after the end of its loss.
    """
    first = bisect_left([a.place for a in articles], 0.0)
    times = [motion.time_at(a.place) for a in articles[first:]]
    lost = (
        _lost_triggers(scene, articles, motion, planned, rng, count, first, times, away_ns)
        if Kind.LOST_TRIGGER in kinds
        else set()
    )
    for offset, t in enumerate(times):
        index = first + offset
        if Kind.MISSED_TRIGGER in kinds and rng.random() < SHARES[Kind.MISSED_TRIGGER]:
            count(Kind.MISSED_TRIGGER)
            continue
        edge = round(t + rng.random() * EYE_NS)
        if index in lost:
            yield Seen(edge, "lost")
            continue
        yield Seen(edge, "edge", index)
        if Kind.BOUNCE in kinds and rng.random() < SHARES[Kind.BOUNCE]:
            count(Kind.BOUNCE)
            for _ in range(rng.randint(1, 4)):
                yield Seen(edge + rng.random() * 0.8 * scene.track.debounce_ns, "edge", index)
        if Kind.GHOST in kinds and rng.random() < SHARES[Kind.GHOST]:
            count(Kind.GHOST)
            yield Seen(edge + rng.uniform(0.1, 0.9) * scene.usual / scene.speed * _S, "ghost")


def _lost_triggers(
    scene: Scene,
    articles: Sequence[Article],
    motion: Motion,
    planned: Sequence[Spell],
    rng: random.Random,
    count: Callable[[Kind], None],
    first: int,
    times: Sequence[float],
    away_ns: int,
) -> set[int]:
    """Which triggers the kernel loses. It says so with the next one, which it only drops others for; that is early
    enough, or else nobody could know in time."""
    needed = scene.timing.lead_ns + TURN_NS + COMMAND_NS + EJECTOR_NS + EYE_NS
    away = [(s.begin_ns, s.end_ns) for s in planned if s.kind in (Kind.TRIGGER_LOSS, Kind.SILENT_ENCODER)]
    lost: set[int] = set()
    offset = 0
    while offset < len(times) - 4:
        if rng.random() >= SHARES[Kind.LOST_TRIGGER]:
            offset += 1
            continue
        number = rng.randint(1, 3)
        told = times[offset + number]
        before = motion.time_at(articles[first + offset].place + scene.window_from)
        heard = all(not begin <= told + EYE_NS <= end + away_ns for begin, end in away)
        if told + needed < before and heard:
            lost.update(range(first + offset, first + offset + number))
            count(Kind.LOST_TRIGGER)
        offset += number + 2
    return lost
