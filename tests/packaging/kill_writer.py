"""Kill a process that overwrites a bundle, again and again: python kill_writer.py OLD NEW FOLDER KILLS SEED

It prints one JSON object with what was found after each kill. A program of its own, because it forks: the
children start in a millisecond with everything imported.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import msgspec

from edge_ad_runtime.bundle import Bundle, open_bundle, write_bundle
from edge_ad_runtime.calibration import encode_calibration
from edge_ad_runtime.errors import BundleError

TARGET = "part.edgead"


def write(bundle: Bundle, path: Path) -> None:
    """Write an opened bundle's content to another path, with the same id."""
    calibration = encode_calibration(msgspec.structs.replace(bundle.calibration, bundle=""))
    write_bundle(path, bundle.manifest, bundle.model, calibration, bundle.golden, bundle.report)


def write_for_ever(old: Bundle, new: Bundle, path: Path) -> None:
    while True:
        write(new, path)
        write(old, path)


def main(old_path: Path, new_path: Path, folder: Path, kills: int, seed: int) -> None:
    old, new = open_bundle(old_path), open_bundle(new_path)
    names = {old.id: "old", new.id: "new"}
    path = folder / TARGET
    write(old, path)
    begin = time.monotonic()
    for _ in range(5):
        write(new, path)
        write(old, path)
    both_writes = (time.monotonic() - begin) / 5
    random.seed(seed)
    found = {"old": 0, "new": 0, "other": 0, "does not open": 0}
    interrupted = 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            write_for_ever(old, new, path)
        time.sleep(random.uniform(0, 2 * both_writes))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        try:
            found[names.get(open_bundle(path).id, "other")] += 1
        except BundleError:
            found["does not open"] += 1
        for left in folder.glob(f".{TARGET}.*"):
            interrupted += 1
            left.unlink()
    print(json.dumps({"found": found, "interrupted": interrupted, "both_writes_ms": both_writes * 1e3}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
