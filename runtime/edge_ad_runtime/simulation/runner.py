"""Episodes: a million parts are a thousand lines of a thousand parts, each by a seed of its own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from edge_ad_runtime.simulation.faults import UNAVOIDABLE, Kind, possible, random_kinds
from edge_ad_runtime.simulation.report import SimReport, explain
from edge_ad_runtime.simulation.scene import Scene, random_scene
from edge_ad_runtime.simulation.truth import Truth
from edge_ad_runtime.simulation.world import World

EPISODE = 1000
"""Parts of an episode."""


def play(
    seed: int,
    episode: int,
    parts: int,
    truth: Truth,
    kinds: frozenset[Kind] | None,
    bad_share: float,
    scene: Scene | None = None,
) -> World:
    """One episode, finished. The same arguments give the same one.

    Args:
        seed: of the whole simulation.
        episode: its number, from 0.
        parts: how many.
        truth: draws the parts.
        kinds: what goes wrong; None: something else in every episode, of what can be caught.
        bad_share: of the parts, 0 to 1.
        scene: the line; None: another one in every episode.
    """
    rng = random.Random(f"{seed}/{episode}")
    line = random_scene(rng) if scene is None else scene
    faults = random_kinds(rng) if kinds is None else kinds
    world = World(line, truth, possible(faults, line.mm_per_count is not None), parts, bad_share, rng)
    world.run()
    return world


def simulate(
    seed: int,
    parts: int,
    truth: Truth,
    kinds: frozenset[Kind] | None,
    bad_share: float,
    scene: Scene | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> SimReport:
    """All episodes; ``progress`` is told the parts after each."""
    report = SimReport(seed=seed, unavoidable=sorted(k.value for k in (kinds or frozenset()) & UNAVOIDABLE))
    began = time.monotonic()
    while report.parts < parts:
        first = report.parts
        count = min(EPISODE, parts - first)
        report.add(play(seed, first // EPISODE, count, truth, kinds, bad_share, scene), first + 1)
        if progress is not None:
            progress(count)
    report.wall_s = round(time.monotonic() - began, 3)
    return report


def explain_part(
    part: int,
    seed: int,
    parts: int,
    truth: Truth,
    kinds: frozenset[Kind] | None,
    bad_share: float,
    scene: Scene | None = None,
) -> str:
    """The story of one part, from 1, of the simulation with these arguments."""
    episode, index = divmod(part - 1, EPISODE)
    count = min(EPISODE, parts - episode * EPISODE)
    return explain(play(seed, episode, count, truth, kinds, bad_share, scene), index, part)
