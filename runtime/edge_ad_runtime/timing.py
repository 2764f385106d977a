"""Timing bundles against each other, and the memory that each needs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_ad_runtime.cores import stay_on, usable_cores
from edge_ad_runtime.engines import EngineOptions
from edge_ad_runtime.errors import BundleError, EdgeAdError, InputError
from edge_ad_runtime.inspector import Inspector, open_inspector
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.types import Image

CAMERA_WIDTH, CAMERA_HEIGHT = 1280, 960
_MEMORY_RUNS = 10
# An engine's threads may go on spinning for a moment after a run, which would cost the next bundle time.
_PAUSE_S = 0.01


class Percentiles(msgspec.Struct, frozen=True):
    """Median and 99th percentile, in milliseconds; the latter is a value that occurred."""

    p50: float
    p99: float


class BundleTiming(msgspec.Struct, frozen=True, kw_only=True):
    """What one bundle costs on this machine.

    ``engine_ms`` is the engine alone, ``end_to_end_ms`` an inspection: preprocessing of the camera image,
    engine, scoring and verdict. ``engine_ratio`` is the median over the rounds of its engine time divided by
    the first bundle's in the same round. ``rss_mb`` is the resident memory, in 1e6 bytes, of a process of its
    own that inspects images with this bundle, None where the system does not tell. ``gmac`` is an image's, in
    units of 1e9. Of a bundle with tiles every tile is computed, whether it has changed or not.
    """

    bundle: str
    name: str
    size: str
    target: str
    precision: str
    engine: str
    engine_ms: Percentiles
    end_to_end_ms: Percentiles
    engine_ratio: float
    rss_mb: float | None
    gmac: float


def percentiles(nanoseconds: Sequence[int]) -> Percentiles:
    """Median and 99th percentile of durations, in milliseconds.

    Raises:
        InputError: there are none.
    """
    if not nanoseconds:
        raise InputError("no durations to summarize")
    values = np.asarray(nanoseconds, float) / 1e6
    return Percentiles(float(np.median(values)), float(np.percentile(values, 99, method="higher")))


def noise_frame(specs: Sequence[PreprocessSpec]) -> Image:
    """A camera image of noise, ``uint8 HxWx3``: 1280x960, or larger where a region of interest needs it."""
    regions = [spec.roi for spec in specs if spec.roi is not None]
    width = max([CAMERA_WIDTH, *(r.x + r.width for r in regions)])
    height = max([CAMERA_HEIGHT, *(r.y + r.height for r in regions)])
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def time_bundles(
    paths: Sequence[Path],
    *,
    rounds: int,
    threads: int | None = None,
    image: Image | None = None,
    after_round: Callable[[], None] = lambda: None,
    options: Sequence[EngineOptions | None] | None = None,
) -> list[BundleTiming]:
    """Time bundles in one process, each once per round, so that the machine's drift hits all alike.

    The order rotates from round to round. Memory is measured first, each bundle in a process of its own.

    Args:
        paths: the bundles; the same one may be given twice.
        rounds: at least 1; a 99th percentile means little below 100.
        threads: CPU threads of each engine; None lets it use all cores.
        image: the camera image, ``uint8 HxWx3`` RGB; None takes :func:`noise_frame`.
        after_round: called after each round, to show progress.
        options: of each bundle's engine; None are the engines' defaults.

    Raises:
        InputError: no bundle, no round, or the image does not hold a bundle's region of interest.
        BundleError, MissingExtra: a bundle cannot be opened here.
    """
    if not paths or rounds < 1:
        raise InputError("timing needs at least one bundle and one round")
    chosen = options or [None] * len(paths)
    home = usable_cores()
    inspectors = []
    for path, own in zip(paths, chosen, strict=True):
        inspectors.append(open_inspector(path, threads=threads, options=own))
        _stay(home)
    frame = noise_frame([i.bundle.manifest.preprocess for i in inspectors]) if image is None else image
    for inspector in inspectors:
        inspector.inspect(frame)
    memory = [resident_memory(path, threads, own) for path, own in zip(paths, chosen, strict=True)]
    engine_ns: list[list[int]] = [[] for _ in paths]
    total_ns: list[list[int]] = [[] for _ in paths]
    for number in range(rounds):
        for place in range(len(paths)):
            which = (number + place) % len(paths)
            time.sleep(_PAUSE_S)
            own = chosen[which]
            _stay(home if own is None or own.cpus is None else own.cpus)
            inspection = inspectors[which].inspect(frame)
            engine_ns[which].append(inspection.engine_ns)
            total_ns[which].append(inspection.total_ns)
        after_round()
    _stay(home)
    first = np.asarray(engine_ns[0], float)
    return [
        _bundle_timing(path, inspector, engine, total, float(np.median(engine / first)), rss)
        for path, inspector, engine, total, rss in zip(
            paths, inspectors, engine_ns, total_ns, memory, strict=True
        )
    ]


def _stay(cores: Sequence[int]) -> None:
    """The calling thread computes, too; only where it is moved at all, for not every system can."""
    if usable_cores() != tuple(cores):
        stay_on(cores)


def _bundle_timing(
    path: Path, inspector: Inspector, engine: list[int], total: list[int], ratio: float, rss: int | None
) -> BundleTiming:
    manifest = inspector.bundle.manifest
    return BundleTiming(
        bundle=str(path),
        name=manifest.name,
        size=manifest.size,
        target=manifest.target,
        precision=manifest.precision,
        engine=inspector.engine.name,
        engine_ms=percentiles(engine),
        end_to_end_ms=percentiles(total),
        engine_ratio=ratio,
        rss_mb=None if rss is None else rss / 1e6,
        gmac=manifest.image_gmac,
    )


def resident_memory(
    path: Path, threads: int | None = None, options: EngineOptions | None = None
) -> int | None:
    """Resident bytes of a new process that has opened the bundle and inspected a few camera images.

    None where the system does not tell (no ``/proc``).

    Raises:
        BundleError: the bundle cannot be opened in a process of its own.
    """
    told = msgspec.json.encode(options).decode()
    command = [sys.executable, "-m", "edge_ad_runtime.timing", str(path), str(threads or 0), told]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BundleError(f"{path}: measuring its memory failed: {done.stderr.strip()[-500:]}")
    return msgspec.json.decode(done.stdout, type=int | None)


def _own_resident_bytes() -> int | None:
    try:
        # The second field is the number of resident pages (man 5 proc).
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGESIZE")


def _measure_memory(path: Path, threads: int | None, options: EngineOptions | None) -> None:
    inspector = open_inspector(path, threads=threads, options=options)
    frame = noise_frame([inspector.bundle.manifest.preprocess])
    for _ in range(_MEMORY_RUNS):
        inspector.inspect(frame)
    sys.stdout.write(msgspec.json.encode(_own_resident_bytes()).decode())


if __name__ == "__main__":
    try:
        _measure_memory(
            Path(sys.argv[1]),
            int(sys.argv[2]) or None,
            msgspec.json.decode(sys.argv[3], type=EngineOptions | None),
        )
    except EdgeAdError as problem:
        sys.exit(str(problem))
