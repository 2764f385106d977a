"""From a frame to its verdict, stage by stage: this checkout, the same steps done naively, and an older checkout.

    python -m tests.benchmarks.frame [BUNDLE] [--before FOLDER] [--threads N] [--rounds 12] [--sizes 640x480,…] [--json]

``naive`` is the baseline: colours put in order on the whole frame, then every step in new memory. ``before`` is what stands
in another checkout (``git worktree add FOLDER COMMIT``), in a process of its own. All run in blocks in turn. Without a
bundle, size ``n`` is converted with random weights. Microseconds are this machine's; ratios count. Processor time is
that of all threads of the process, wall time its lower quartile, for other programs only ever add to it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.frame_worker import STAGES

SIZES = ((256, 256), (640, 480), (1920, 1080))
_ROOMS = ("runtime", "calibration", "converters", "sdk")
HERE = Path(__file__).resolve().parents[2]


class Side:
    """A worker in a process of its own with the runtime of a checkout."""

    def __init__(self, checkout: Path, bundle: Path, threads: int | None) -> None:
        paths = os.pathsep.join(str(checkout / room) for room in _ROOMS)
        # The worker's own folder must not be searched first.
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}
        command = [
            sys.executable,
            str(HERE / "tests/benchmarks/frame_worker.py"),
            str(bundle),
            str(threads or 0),
        ]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        used = Path(self._answer())
        if checkout.resolve() not in used.resolve().parents:
            self.close()
            raise SystemExit(f"{used} was imported in place of the runtime in {checkout}")

    def ask(self, *command: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended")
        return json.loads(line)

    def close(self) -> None:
        # Closes the pipes and waits.
        with self._process:
            pass


def measure(
    bundle: Path,
    before: Path | None,
    rounds: int,
    frames: int,
    threads: int | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> dict[str, Any]:
    """Microseconds and bytes of every stage, by size and side, and the loop's time over the bare engine's."""
    own = Side(HERE, bundle, threads)
    sides: dict[str, tuple[Side, bool]] = {"naive": (own, True)}
    if before is not None:
        sides["before"] = (Side(before, bundle, threads), False)
    sides["after"] = (own, False)
    try:
        return {f"{w}x{h}": _size(sides, w, h, rounds, frames) for w, h in sizes}
    finally:
        for side in {id(side): side for side, _ in sides.values()}.values():
            side.close()


def _size(
    sides: dict[str, tuple[Side, bool]], width: int, height: int, rounds: int, frames: int
) -> dict[str, Any]:
    stages: dict[str, dict[str, list[list[int]]]] = {n: {s: [] for s in STAGES} for n in sides}
    loop: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    over: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in sides}
    names = list(sides)
    for number in range(rounds):
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            side, naive = sides[name]
            engine = side.ask("bare_engine", frames)
            block = side.ask("block", width, height, frames, naive, True)
            for clock, values in over[name].items():
                values.append(block["frame"][clock] / engine[clock] - 1)
            for stage, rows in block["stages"].items():
                stages[name][stage] += rows
            # Without the engine, what the rest takes is seen more clearly.
            loop[name].append(side.ask("block", width, height, frames, naive, False)["frame"])
    return {
        name: {
            "cpu_us": {s: _quantile(rows, 1, 0.5) for s, rows in stages[name].items()},
            "wall_us": {s: _quantile(rows, 0, 0.25) for s, rows in stages[name].items()},
            "bytes": side.ask("trace", width, height, naive),
            "without_engine": {
                key: round(
                    float(np.median([x[key] for x in loop[name]])) / (1 if key == "faults" else 1e3), 2
                )
                for key in loop[name][0]
            },
            "loop_over_bare_engine": {c: round(float(np.median(v)), 3) for c, v in over[name].items()},
        }
        for name, (side, naive) in sides.items()
    }


def _quantile(rows: list[list[int]], column: int, q: float) -> float:
    return round(float(np.quantile([row[column] for row in rows], q)) / 1e3, 1)


def table(result: dict[str, Any]) -> str:
    """For people."""
    lines: list[str] = []
    for size, sides in result.items():
        lines.append(f"{size}: {'':26}" + "".join(f"{name:>10}" for name in sides))
        for key, unit in (("cpu_us", "CPU us"), ("wall_us", "wall us"), ("bytes", "bytes")):
            for stage in STAGES:
                values = "".join(f"{side[key][stage]:>10}" for side in sides.values())
                lines.append(f"  {stage + ', ' + unit:<34}{values}")
        for key in next(iter(sides.values()))["without_engine"]:
            values = "".join(f"{side['without_engine'][key]:>10}" for side in sides.values())
            what = "page faults" if key == "faults" else f"{key}, us"
            lines.append(f"  {'frame without engine: ' + what:<34}{values}")
        for clock in ("cpu", "wall"):
            values = "".join(f"{side['loop_over_bare_engine'][clock]:>10}" for side in sides.values())
            lines.append(f"  {'loop over bare engine, less 1: ' + clock:<34}{values}")
    return "\n".join(lines)


def _sizes(text: str) -> list[tuple[int, int]]:
    pairs = [tuple(map(int, size.split("x"))) for size in text.split(",")]
    return [(width, height) for width, height in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--threads", type=int, help="of the engine and of resizing; all cores by default")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--frames", type=int, default=40, help="in a block")
    parser.add_argument("--sizes", type=_sizes, default=SIZES, help="of frames, such as 640x480,1280x960")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle
        if bundle is None:
            from tests.benchmarks.device import random_bundles

            bundle = random_bundles(Path(folder))[0]
        result = measure(
            bundle.resolve(), options.before, options.rounds, options.frames, options.threads, options.sizes
        )
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    main()
