"""Two lines on one machine: each engine on all cores, or each on cores of its own.

    python -m tests.benchmarks.shared_cores BUNDLE [--rounds 20] [--parts 8] [--period-ms 0] [--json]

Every way has two processes with the bundle open. In each round each way runs once: both processes score the same number
of parts at the same time, one part each ``--period-ms`` (0: back to back). Ratios to the first way, of medians and of 99th
percentiles, count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from edge_ad_runtime.cores import format_cores, usable_cores
from edge_ad_runtime.engines import EngineOptions
from edge_ad_runtime.engines.options import OpenVinoOptions, OrtOptions
from edge_ad_runtime.inspector import open_inspector


def ways(target: str, cores: tuple[int, ...]) -> dict[str, tuple[EngineOptions, EngineOptions]]:
    """The options of both lines in each way."""
    half = len(cores) // 2
    left, right = cores[:half], cores[half:]
    found = {
        "all cores each": (EngineOptions(), EngineOptions()),
        f"{half} threads each": (EngineOptions(threads=half), EngineOptions(threads=half)),
        f"cpus {format_cores(left)} and {format_cores(right)}": (
            EngineOptions(cpus=left),
            EngineOptions(cpus=right),
        ),
    }
    if target == "ort":
        quiet = EngineOptions(ort=OrtOptions(spinning=False))
        found["all cores each, no spinning"] = (quiet, quiet)
    if target == "openvino":
        loose = EngineOptions(openvino=OpenVinoOptions(pinning=False))
        found["all cores each, no pinned threads"] = (loose, loose)
    return found


class _Line:
    """A scoring process."""

    def __init__(self, bundle: Path, options: EngineOptions) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.shared_cores", str(bundle), "--worker",
             msgspec.json.encode(options).decode()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.hear()

    def say(self, parts: int, period_ms: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{parts} {period_ms}\n")

    def hear(self) -> list[int]:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("a scoring process died")
        return msgspec.json.decode(answer, type=list[int])

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def _work(bundle: Path, options: EngineOptions) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    inspector = open_inspector(bundle, options=options)
    image = inspector.bundle.golden[0].image.copy()
    answers.write("[]\n")
    for request in sys.stdin:
        parts, period_ms = request.split()
        times: list[int] = []
        due = time.monotonic_ns()
        for _ in range(int(parts)):
            # From when the part was there: one that waits for the part before it is late.
            time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
            began = due if float(period_ms) else time.monotonic_ns()
            inspector.engine.run(image)
            times.append(time.monotonic_ns() - began)
            due += round(float(period_ms) * 1e6)
        answers.write(json.dumps(times) + "\n")


def compare(bundle: Path, rounds: int, parts: int, period_ms: float) -> dict[str, dict[str, float]]:
    """Milliseconds of a part, over both lines, in each way."""
    target = open_inspector(bundle).bundle.manifest.target
    times: dict[str, list[int]] = {}
    with contextlib.ExitStack() as stack:
        lines: dict[str, list[_Line]] = {}
        for way, both in ways(target, usable_cores()).items():
            lines[way] = [_Line(bundle, options) for options in both]
            for line in lines[way]:
                stack.callback(line.end)
        order = list(lines)
        for number in range(rounds):
            for place in range(len(order)):
                way = order[(number + place) % len(order)]
                time.sleep(0.03)
                for line in lines[way]:
                    line.say(parts, period_ms)
                for line in lines[way]:
                    times.setdefault(way, []).extend(line.hear())
    first = times[next(iter(lines))]
    return {
        way: {
            "p50_ms": float(np.median(values)) / 1e6,
            "p99_ms": float(np.percentile(values, 99)) / 1e6,
            "p50_ratio": float(np.median(values) / np.median(first)),
            "p99_ratio": float(np.percentile(values, 99) / np.percentile(first, 99)),
        }
        for way, values in ((way, times[way]) for way in lines)
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--period-ms", type=float, default=0.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.worker is not None:
        _work(given.bundle, msgspec.json.decode(given.worker, type=EngineOptions))
        return
    if len(usable_cores()) < 2:
        raise SystemExit("one core cannot be shared out")
    result = compare(given.bundle, given.rounds, given.parts, given.period_ms)
    if given.json:
        print(json.dumps({"load": os.getloadavg()[0], "ways": result}))
        return
    print(f"load of the machine {os.getloadavg()[0]:.1f}")
    for way, v in result.items():
        print(
            f"{way:36} p50 {v['p50_ms']:8.2f} ms ({v['p50_ratio']:.3f})  p99 {v['p99_ms']:8.2f} ms ({v['p99_ratio']:.3f})"
        )


if __name__ == "__main__":
    main()
