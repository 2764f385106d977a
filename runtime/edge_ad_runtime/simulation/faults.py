"""What can go wrong on the simulated line, and when."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from edge_ad_runtime.errors import InputError


class Kind(str, Enum):
    """A fault that can be injected."""

    BOUNCE = "bounce"
    """The photo-eye bounces within the debounce time."""
    STALL = "stall"
    """The scorer is stopped for a while, as by SIGSTOP; its camera keeps the newest frames."""
    CRASH = "crash"
    """The scorer dies, and is started again."""
    SLOW = "slow_scorer"
    """Now and then the scorer takes ten times as long."""
    ENGINE = "engine"
    """The engine fails for a part."""
    BAD_FRAME = "bad_frame"
    """A part's frame cannot be read."""
    DROPPED_FRAME = "dropped_frame"
    """The camera leaves frames out."""
    CAMERA_LOSS = "camera_loss"
    """The camera is away for a while."""
    LOST_TRIGGER = "lost_trigger"
    """The kernel loses triggers, and says so with the next one."""
    TRIGGER_LOSS = "trigger_loss"
    """The trigger's device is away for a while."""
    GHOST = "ghost"
    """The photo-eye sees something that is no part."""
    DOUBLE = "double"
    """Two parts come closer than the line is made for."""
    STOP = "stop"
    """The belt stops, and runs again."""
    SPEED = "speed"
    """The belt changes its speed; only with an encoder."""
    ENCODER_LOSS = "encoder_loss"
    """The encoder's device is away for a while."""
    # Only when asked for by name, since nothing on the line can know of them in time.
    MISSED_TRIGGER = "missed_trigger"
    """The photo-eye does not see a part, and nobody says so."""
    UNSEEN_SPEED = "unseen_speed"
    """The belt runs 20 % slower for a while, without an encoder."""
    SILENT_ENCODER = "silent_encoder"
    """The encoder stands still while the belt runs; only the next trigger shows it."""
    DEAD_OUTPUT = "dead_output"
    """The ejector does not act for a while."""


UNAVOIDABLE = frozenset({Kind.MISSED_TRIGGER, Kind.UNSEEN_SPEED, Kind.SILENT_ENCODER, Kind.DEAD_OUTPUT})
"""Kinds by which bad parts slip past, or good ones are struck, whatever the software does."""
CATCHABLE = frozenset(Kind) - UNAVOIDABLE

# Kinds that strike single parts, with the usual share of parts; the others last a while.
SHARES = {
    Kind.BOUNCE: 0.3,
    Kind.SLOW: 0.01,
    Kind.ENGINE: 0.005,
    Kind.BAD_FRAME: 0.005,
    Kind.DROPPED_FRAME: 0.02,
    Kind.LOST_TRIGGER: 0.02,
    Kind.GHOST: 0.005,
    Kind.DOUBLE: 0.01,
    Kind.MISSED_TRIGGER: 0.002,
}
_ONLY_ENCODED = frozenset({Kind.SPEED, Kind.ENCODER_LOSS, Kind.SILENT_ENCODER})
_ONLY_TIMED = frozenset({Kind.UNSEEN_SPEED})


MOST_SPELLS = 15


@dataclass(frozen=True)
class Spell:
    """A fault of some duration."""

    kind: Kind
    begin_ns: int
    end_ns: int


def parse_kinds(text: str) -> frozenset[Kind] | None:
    """``none``, ``random`` (None: another choice for every episode), or kinds with commas between them.

    Raises:
        InputError: an unknown kind.
    """
    if text == "random":
        return None
    if text == "none":
        return frozenset()
    known = {kind.value: kind for kind in Kind}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise InputError(f"fault '{name}': must be none, random, or of {', '.join(known)}")
    return frozenset(known[name] for name in names)


def possible(kinds: Iterable[Kind], encoded: bool) -> frozenset[Kind]:
    """Those that can happen on such a line."""
    return frozenset(kinds) - (_ONLY_TIMED if encoded else _ONLY_ENCODED)


def random_kinds(rng: random.Random) -> frozenset[Kind]:
    """Some of the kinds that can be caught: now and then none, now and then all."""
    share = rng.choice([0.0, 0.3, 0.3, 0.6, 1.0])
    return frozenset(kind for kind in sorted(CATCHABLE) if rng.random() < share)


def spells(
    rng: random.Random, kinds: Iterable[Kind], begin_ns: int, end_ns: int, most: int = MOST_SPELLS
) -> list[Spell]:
    """When those of the kinds that last happen: each up to ``most`` times, not twice at once."""
    found: list[Spell] = []
    for kind in sorted(set(kinds) - set(SHARES)):
        at = begin_ns
        times = min(rng.randint(2, MOST_SPELLS), most)
        for _ in range(times):
            at += round(rng.expovariate(1.0) * (end_ns - begin_ns) / (times + 2))
            longest = rng.choice([0.05e9, 0.5e9, 3e9])
            until = at + round(rng.uniform(0.01e9, longest))
            if until >= end_ns:
                break
            found.append(Spell(kind, at, until))
            at = until + round(rng.choice([0.001e9, 0.3e9]))
    return sorted(found, key=lambda spell: spell.begin_ns)
