"""The engine options that are worth measuring on a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edge_ad_runtime.cores import fastest, one_per_physical_core, usable_cores
from edge_ad_runtime.engines import EngineOptions, Target
from edge_ad_runtime.engines.options import MAX_THREADS

# Above it, thread counts go up by halves and not by one.
_EACH_UP_TO = 6


@dataclass(frozen=True)
class Layout:
    """The cores that this process may use; of them one for each physical core; and those of the fastest kind."""

    cores: tuple[int, ...]
    physical: tuple[int, ...]
    fast: tuple[int, ...]


def this_machine() -> Layout:
    """The layout that the kernel tells of."""
    cores = usable_cores()
    return Layout(cores, one_per_physical_core(cores), fastest(cores))


def thread_counts(cores: int) -> list[int]:
    """1, 2, 3 … 6, then 8, 12, 16, 24 …, and the number of cores itself."""
    counts = list(range(1, min(cores, _EACH_UP_TO) + 1))
    step = 8
    while step < cores:
        counts += [n for n in (step, step * 3 // 2) if n < cores]
        step *= 2
    return sorted({*counts, min(cores, MAX_THREADS)})


def first_candidates(target: Target, layout: Layout) -> list[EngineOptions]:
    """The defaults, then each number of threads."""
    counts = thread_counts(len(layout.cores))
    if target == "tflite":
        # All cores is its default.
        counts = counts[:-1]
    return [EngineOptions(), *(EngineOptions(threads=n) for n in counts)]


def variants(target: Target, base: EngineOptions, layout: Layout) -> list[EngineOptions]:
    """The best number of threads with one thing more changed."""
    found: list[EngineOptions] = []
    for cpus in (layout.physical, layout.fast):
        if 0 < len(cpus) < len(layout.cores):
            threads = min(base.threads or len(cpus), len(cpus))
            found.append(msgspec.structs.replace(base, cpus=cpus, threads=threads))
    if target == "ort":
        found += [
            msgspec.structs.replace(base, ort=msgspec.structs.replace(base.ort, **own))
            for own in ({"spinning": False}, {"arena": False})
        ]
    elif target == "openvino":
        changes: list[dict[str, object]] = [{"pinning": False}]
        if len(layout.physical) < len(layout.cores):
            changes.append({"hyper_threading": True})
        if len(layout.fast) < len(layout.cores):
            changes.append({"core_type": "performance"})
        found += [
            msgspec.structs.replace(base, openvino=msgspec.structs.replace(base.openvino, **change))
            for change in changes
        ]
    elif target == "tflite":
        latest = msgspec.structs.replace(base.tflite, latest_kernels=True)
        found.append(msgspec.structs.replace(base, tflite=latest))
    return list(dict.fromkeys(found))


def combination(base: EngineOptions, better: Sequence[EngineOptions]) -> EngineOptions | None:
    """All that the better ones change in the base, the first one's word first; None where that is no new candidate."""
    merged = base
    for options in reversed(better):
        for name in ("threads", "cpus"):
            if getattr(options, name) != getattr(base, name):
                merged = msgspec.structs.replace(merged, **{name: getattr(options, name)})
        for name in ("ort", "openvino", "tflite"):
            own, was, now = getattr(options, name), getattr(base, name), getattr(merged, name)
            changed = {k: v for k, v in msgspec.structs.asdict(own).items() if v != getattr(was, k)}
            merged = msgspec.structs.replace(merged, **{name: msgspec.structs.replace(now, **changed)})
    return None if merged == base or merged in better else merged
