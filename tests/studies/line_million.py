"""A million parts through the tracking core: ``python -m tests.studies.line_million OUT [--chunks 10] [--first 0]``.

Each chunk is a simulation of its own, with its number as the seed; OUT gets one JSON report for each, and a chunk that is
there already is not done again. The last line sums them up. Exit status 1 if anything escaped or was struck by mistake.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.simulation.report import SimReport
from edge_ad_runtime.simulation.runner import simulate
from edge_ad_runtime.simulation.truth import LabelTruth

PARTS = 100_000
BAD_SHARE = 0.05
_SUMMED = (
    "parts",
    "bad",
    "escapes",
    "wrong_hits",
    "kept",
    "unseen",
    "unseen_passed",
    "good_passed",
    "fault_rejects",
)


def chunk(out: Path, seed: int) -> SimReport:
    """One chunk's report, from OUT or made now."""
    file = out / f"{seed:04d}.json"
    if file.exists():
        return msgspec.json.decode(file.read_bytes(), type=SimReport)
    report = simulate(seed, PARTS, LabelTruth(), None, BAD_SHARE)
    write_atomically(file, msgspec.json.encode(report))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--chunks", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first, options.first + options.chunks)
    total = dict.fromkeys(_SUMMED, 0)
    faults: dict[str, int] = {}
    injected: dict[str, int] = {}
    sound = True
    with ProcessPoolExecutor(options.workers) as pool:
        for report in pool.map(partial(chunk, options.out), seeds):
            sound = sound and report.sound
            for name in _SUMMED:
                total[name] += getattr(report, name)
            for sums, counts in ((faults, report.faults), (injected, report.injected)):
                for kind, count in counts.items():
                    sums[kind] = sums.get(kind, 0) + count
            print(f"seed {report.seed}: {'sound' if report.sound else report.problems}", flush=True)
    print(msgspec.json.encode({**total, "faults": faults, "injected": injected}).decode())
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
