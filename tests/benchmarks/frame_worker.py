"""One side of :mod:`tests.benchmarks.frame`: runs blocks of frames through a line as told on standard input.

It runs with this checkout's runtime or with an older one's, so it imports nothing but the runtime, and knows both ways of
giving a frame to the loop.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import edge_ad_runtime.inspector as inspector_module
from edge_ad_runtime.cameras.base import Camera, Frame
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.link import ProcessGuard
from edge_ad_runtime.inspector import Inspection, Inspector, open_inspector
from edge_ad_runtime.line.station import FreeStation, Recording
from edge_ad_runtime.scoring import apply_calibration, decide
from edge_ad_runtime.sinks.jsonl import JsonLines
from edge_ad_runtime.stopping import StopRequest

Pixels = npt.NDArray[np.uint8]
Call = Callable[..., Any]
STAGES = ("colours", "preprocess", "engine", "scoring", "link", "records")
_WARM = 5


class Meter:
    """What the stages of one frame take: wall time, processor time of all threads, and the most memory above what was
    there when the stage began."""

    def __init__(self) -> None:
        self.tracing = False
        self.rows: list[dict[str, tuple[int, int, int]]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        before = 0
        if self.tracing:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        try:
            yield
        finally:
            wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
            memory = tracemalloc.get_traced_memory()[1] - before if self.tracing else 0
            if self.rows:
                row = self.rows[-1]
                w, c, m = row.get(name, (0, 0, 0))
                row[name] = (w + wall, c + cpu, max(m, memory))

    def around(self, name: str, call: Call) -> Call:
        def measured(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return call(*args, **kwargs)

        return measured


class NaiveInspector:
    """The baseline: every step by itself, in new memory, on the whole frame where it comes first."""

    def __init__(self, inspector: Inspector, meter: Meter) -> None:
        self.calibration = inspector.calibration
        self._inspector = inspector
        self._meter = meter

    def inspect(self, image: Pixels) -> Inspection:
        start, stage = time.monotonic_ns(), self._meter.stage
        spec = self._inspector.bundle.manifest.preprocess
        with stage("preprocess"):
            assert spec.roi is None, "the baseline is written for bundles without a region"
            assert min(image.shape[:2]) >= min(spec.height, spec.width)
            batch = cv2.resize(image, (spec.width, spec.height), interpolation=cv2.INTER_AREA)[None]
        begun = time.monotonic_ns()
        maps: RawMaps = self._inspector.engine.run(np.asarray(batch, np.uint8))
        ended = time.monotonic_ns()
        with stage("scoring"):
            combined, score = apply_calibration(maps, self.calibration)
        verdict = decide(score, self.calibration)
        return Inspection(
            score, self.calibration.threshold, verdict, combined, ended - begun, time.monotonic_ns() - start
        )


class BgrCamera(Camera):
    """Gives one BGR image in memory again and again, as OpenCV's cameras do; decoding is no part of this."""

    name = "memory"

    def __init__(self, pixels: Pixels, count: int, meter: Meter, naive: bool) -> None:
        self._pixels, self._left, self._meter = pixels, count, meter
        self._as_it_is = not naive and hasattr(Frame, "view")

    def read(self) -> Frame | None:
        if not self._left:
            return None
        self._left -= 1
        self._meter.rows.append({})
        t_ns = time.monotonic_ns()
        with self._meter.stage("colours"):
            if self._as_it_is:
                return Frame(self._pixels, self._left, t_ns, self.name, "BGR")
            return Frame(
                np.asarray(cv2.cvtColor(self._pixels, cv2.COLOR_BGR2RGB), np.uint8),
                self._left,
                t_ns,
                self.name,
            )


class BgrSource:
    name, live = "memory", False

    def __init__(self, camera: BgrCamera) -> None:
        self._camera = camera

    def open(self) -> Camera:
        return self._camera


class MeteredStation(FreeStation):
    def __init__(self, meter: Meter, *args: Any) -> None:
        super().__init__(*args)
        setattr(self, "_record", meter.around("records", self._record))  # noqa: B010 - it is a method


class Worker:
    """An opened bundle, its line's guard in a process, and records in a file."""

    def __init__(self, bundle: Path, folder: Path, threads: int | None) -> None:
        self._meter = meter = Meter()
        for stage, name in (("preprocess", "preprocess"), ("scoring", "apply_calibration")):
            setattr(inspector_module, name, meter.around(stage, getattr(inspector_module, name)))
        self._inspector = open_inspector(bundle, threads=threads)
        self._run = self._inspector.engine.run
        self._folder = folder
        self._images: dict[tuple[int, int], Pixels] = {}

    def block(self, width: int, height: int, frames: int, naive: bool, engine: bool) -> dict[str, Any]:
        """Run ``frames`` frames; without ``engine`` its answer is one that was given before."""
        meter = self._meter
        pixels = self._image(width, height)
        if engine:
            run = self._run
        else:
            spec = self._inspector.bundle.manifest.preprocess
            maps = self._run(np.zeros((1, spec.height, spec.width, 3), np.uint8))

            def run(batch: Pixels) -> RawMaps:
                return RawMaps(maps.st.copy(), maps.ae.copy())

        self._inspector.engine.run = meter.around("engine", run)  # type: ignore[method-assign]
        inspector: Any = NaiveInspector(self._inspector, meter) if naive else self._inspector
        link = ProcessGuard(GuardConfig(line="benchmark", outputs=("mock://x",)), self._folder)
        sink = JsonLines(self._folder / "records.jsonl")
        camera = BgrCamera(pixels, frames + _WARM, meter, naive)
        link.tell = meter.around("link", link.tell)  # type: ignore[method-assign]
        station = MeteredStation(
            meter, inspector, BgrSource(camera), link, Recording(sinks=(sink,)), StopRequest(), None
        )
        link.listen(station.hear)
        meter.rows.clear()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        guard, cpu, wall = _cpu_of(link), time.process_time_ns(), time.perf_counter_ns()
        station.run()
        cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
        guard = _cpu_of(link) - guard
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        parts = link.finish(0).parts
        sink.close()
        assert parts == frames + _WARM
        assert sink.lost == 0
        return {
            "stages": {name: [row[name] for row in meter.rows[_WARM:]] for name in STAGES},
            "frame": {
                "cpu": cpu / parts,
                "wall": wall / parts,
                "guard": guard / parts,
                "faults": faults / parts,
            },
        }

    def trace(self, width: int, height: int, naive: bool) -> dict[str, int]:
        """The most bytes that each stage of a frame asks for above what was there, in a settled loop: the median."""
        tracemalloc.start()
        self._meter.tracing = True
        try:
            stages = self.block(width, height, 20, naive, True)["stages"]
        finally:
            self._meter.tracing = False
            tracemalloc.stop()
        return {name: int(np.median([row[2] for row in rows])) for name, rows in stages.items()}

    def bare_engine(self, runs: int) -> dict[str, float]:
        """Nanoseconds of the engine alone, run after run on one array."""
        spec = self._inspector.bundle.manifest.preprocess
        batch: Pixels = np.random.default_rng(0).integers(0, 256, (1, spec.height, spec.width, 3), np.uint8)
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        for _ in range(runs):
            self._run(batch)
        cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
        return {"cpu": cpu / runs, "wall": wall / runs}

    def _image(self, width: int, height: int) -> Pixels:
        if (width, height) not in self._images:
            rng = np.random.default_rng(0)
            self._images[width, height] = rng.integers(0, 256, (height, width, 3), np.uint8)
        return self._images[width, height]


def _cpu_of(link: ProcessGuard) -> int:
    """Nanoseconds that the guard's threads have run: the first field of their schedstat (kernel, sched-stats)."""
    tasks = Path(f"/proc/{link._wire.peer}/task")
    try:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())
    except OSError:
        return 0


def main() -> None:
    bundle, threads = Path(sys.argv[1]), int(sys.argv[2]) or None
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(bundle, Path(folder), threads)
        commands: dict[str, Call] = {
            "block": worker.block,
            "trace": worker.trace,
            "bare_engine": worker.bare_engine,
        }
        sys.stdout.write(json.dumps(inspector_module.__file__) + "\n")
        sys.stdout.flush()
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            sys.stdout.write(json.dumps(commands[name](*arguments)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
