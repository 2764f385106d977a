"""SIGKILL at random moments of recalibrations: the state is always whole, and either the old or the new.

A nursery process imports everything once and then forks a child for each kill. The child is a process of its
own that recalibrates in a loop and reports each finished one; after the kill, the test looks at the state.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad_calibration.history import History
from edge_ad_runtime.bundle import open_bundle

KILLS = 220
KILLS_PER_FOLDER = 20

NURSERY = """
import os, signal, struct, sys, time
from pathlib import Path
import numpy as np
import onnxruntime
from edge_ad_calibration.history import History
from edge_ad_calibration.session import recalibrate
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.inspector import Inspector

def loop(state, report):
    history = History(state, bundle)
    rng = np.random.default_rng()
    while True:
        images = [rng.normal(128, 10, (32, 32, 3)).clip(0, 255).astype(np.uint8) for _ in range(6)]
        result = recalibrate(
            inspector, images, history, false_reject_rate=0.01, source="kill test", force=True
        )
        os.write(report, struct.pack("<I", int(result.written.name.partition("-")[0])))

bundle = open_bundle(Path(sys.argv[1]))
inspector = Inspector(bundle, threads=1)  # one thread: nothing that a fork would lose
for line in sys.stdin:
    state, delay = line.split()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            loop(Path(state), writing)
        finally:
            os._exit(70)
    os.close(writing)
    first = os.read(reading, 4)
    time.sleep(float(delay))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    data = first
    while more := os.read(reading, 65536):
        data += more
    os.close(reading)
    numbers = struct.unpack(f"<{len(data) // 4}I", data)
    print(os.WTERMSIG(status), numbers[-1] if numbers else 0, len(numbers), flush=True)
"""


@pytest.fixture
def state_root(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: a kill does not care about the disk, and its syncs take long."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def test_killed_at_random_moments(tiny_bundle: Path, state_root: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    rng = random.Random(0)
    seen: Counter[str] = Counter()
    finished = 0
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(tiny_bundle)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        assert nursery.stdin is not None and nursery.stdout is not None
        for kill in range(KILLS):
            state = state_root / str(kill // KILLS_PER_FOLDER)
            nursery.stdin.write(f"{state} {rng.uniform(0, 0.02)}\n")
            nursery.stdin.flush()
            signal_number, last_reported, count = map(int, nursery.stdout.readline().split())
            assert (signal_number, count > 0) == (9, True)
            finished += count
            history = History(state, bundle)
            current = history.current()
            entries = history.entries()  # reads and checks every one of them
            assert [e.problem for e in entries if e.problem is not None] == []
            newest = entries[-1]
            (used,) = (e for e in entries if e.current)
            assert used.calibration == current
            assert current.images == 6 and current.source == "kill test"
            # The last one that was reported, or the one that was just being written.
            assert used.number == last_reported or used is newest
            assert len([e for e in entries if e.number > last_reported]) <= 1
            if used.number != last_reported:
                seen["new, killed before the report"] += 1
            elif newest.number != last_reported:
                seen["written, killed before it was used"] += 1
            elif any(p.name.startswith(".") for p in history.folder.iterdir()):
                seen["killed inside a file"] += 1
            else:
                seen["killed elsewhere"] += 1
        nursery.stdin.close()
        assert nursery.wait(10) == 0
    print(KILLS, "kills,", finished, "recalibrations finished,", dict(seen))
    # Some kills met the moments that matter (about one in eight does).
    assert KILLS - seen["killed elsewhere"] > 0
    # Whatever the kills left behind, the next recalibration works and cleans up.
    for index in range(KILLS // KILLS_PER_FOLDER):
        history = History(state_root / str(index), bundle)
        appended = history.append(history.current())
        assert history.current() == appended.calibration
        assert not list(history.folder.glob(".*"))
