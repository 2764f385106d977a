"""Kill 'edge-ad convert' at random moments: python kill_convert.py RUN OUT KILLS SEED

The bundle OUT is there already and is converted again. Prints one JSON object with what was found after each
kill. It forks before torch has done any work, so each conversion starts with everything imported.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import edge_ad.cli.convert  # noqa: F401 - imported before the fork
from edge_ad.cli import main
from edge_ad_runtime.bundle import open_bundle


def start(run: str, out: str) -> int:
    """Convert in a child; returns its process id."""
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    try:
        # Not the search is killed here but the writing: one range method, no layer by layer, no limit.
        quick = ["--ranges", "min-max", "--no-sensitivity", "--force"]
        main(["convert", run, "-o", out, "--precision", "int8", "--threads", "1", *quick])
    except SystemExit as end:
        os._exit(int(end.code or 0))
    finally:
        os._exit(70)


def kill_again_and_again(run: str, out: Path, kills: int, seed: int) -> dict[str, object]:
    begin = time.monotonic()
    _, status = os.waitpid(start(run, str(out)), 0)
    whole = time.monotonic() - begin
    random.seed(seed)
    opened, cut = 0, 0
    for _ in range(kills):
        child = start(run, str(out))
        time.sleep(random.uniform(0.2, 1.0) * whole)
        os.kill(child, signal.SIGKILL)
        _, ended = os.waitpid(child, 0)
        cut += os.WIFSIGNALED(ended)
        open_bundle(out)
        opened += 1
    names = sorted(p.name for p in out.parent.iterdir())
    return {"first": status, "seconds": whole, "opened": opened, "cut": cut, "names": names}


if __name__ == "__main__":
    print(
        json.dumps(kill_again_and_again(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
    )
