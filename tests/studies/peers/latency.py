"""Engine times of all models in one process, interleaved, the order rotating from round to round."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_ad_runtime.timing import Percentiles, percentiles
from edge_ad_runtime.types import Image
from tests.studies.peers.models import Model
from tests.studies.peers.runners import open_runner

BASE = "ours int8, ort"
_WARM_UP = 5
_PAUSE_S = 0.01


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """A model's times.

    ``ratio`` is the median over the rounds of its engine time by the base's in the same round. ``fastest_ms`` is
    the shortest engine time and ``fastest_ratio`` that by the base's: the figures to look at where other work ran
    on the machine. ``prepare_ms`` is the median of making its input from ``uint8 1xHxWx3``, which is in no other.
    """

    model: str
    engine_ms: Percentiles
    ratio: float
    fastest_ms: float
    fastest_ratio: float
    prepare_ms: float


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """All models' times and how they were taken; ``load`` is the machine's load average just before, without us."""

    threads: int
    rounds: int
    base: str
    load: float
    models: tuple[Latency, ...]


def time_models(
    models: Sequence[Model], folder: Path, batch: Image, *, rounds: int, threads: int, base: str = BASE
) -> Latencies:
    """Time models that stand in one folder; that named ``base`` must be among them."""
    load = os.getloadavg()[0]
    runners = [open_runner(m, folder, threads) for m in models]
    inputs = [r.prepare(batch) for r in runners]
    engine: list[list[int]] = [[] for _ in models]
    prepare: list[list[int]] = [[] for _ in models]
    for number in range(-_WARM_UP, rounds):
        for place in range(len(models)):
            which = (number + place) % len(models)
            time.sleep(_PAUSE_S)
            start = time.monotonic_ns()
            runners[which].prepare(batch)
            middle = time.monotonic_ns()
            runners[which].infer(inputs[which])
            end = time.monotonic_ns()
            if number >= 0:
                prepare[which].append(middle - start)
                engine[which].append(end - middle)
    reference = np.asarray(engine[[m.name for m in models].index(base)], float)
    return Latencies(
        threads=threads, rounds=rounds, base=base, load=load,
        models=tuple(
            Latency(
                model=m.name, engine_ms=percentiles(e), ratio=float(np.median(np.asarray(e) / reference)),
                fastest_ms=min(e) / 1e6, fastest_ratio=min(e) / float(reference.min()),
                prepare_ms=percentiles(p).p50,
            )
            for m, e, p in zip(models, engine, prepare, strict=True)
        ),
    )  # fmt: skip
