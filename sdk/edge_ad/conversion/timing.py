"""Engines against each other on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from edge_ad_runtime.engines import Engine
from edge_ad_runtime.types import Image

_WARM_UP = 2


@dataclass(frozen=True)
class EngineTime:
    """Median time of one image in ms, and the median over the rounds of its ratio to the first engine's."""

    ms: float
    ratio: float


def time_engines(engines: Sequence[Engine], batch: Image, rounds: int) -> list[EngineTime]:
    """Run each engine once a round, in turn, so that the machine's drift hits all alike.

    Args:
        engines: at least one.
        batch: ``uint8 1xHxWx3``, the input of all.
        rounds: those that count; two go before them.
    """
    times: list[list[int]] = [[] for _ in engines]
    for number in range(rounds + _WARM_UP):
        for place in range(len(engines)):
            which = (number + place) % len(engines)
            start = time.monotonic_ns()
            engines[which].run(batch)
            if number >= _WARM_UP:
                times[which].append(time.monotonic_ns() - start)
    return [
        EngineTime(
            statistics.median(column) / 1e6,
            statistics.median(a / b for a, b in zip(column, times[0], strict=True)),
        )
        for column in times
    ]
