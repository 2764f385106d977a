"""One candidate in a process of its own: ``python -m edge_ad_runtime.tuning.worker``.

It gets a :class:`Job` as a line of JSON on standard input and answers with an :class:`Opened`. Then each line asks for one
run of the engine; the answer is its nanoseconds. It ends with its standard input.

A process of its own, since engines of one process share threads (OpenVINO) and the calling thread's cores, and since one that
crashes or takes too much memory must not end the others.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.engines import EngineOptions
from edge_ad_runtime.errors import BundleError, EdgeAdError
from edge_ad_runtime.inspector import Inspector

_WARM_UP_RUNS = 3


class Job(msgspec.Struct, frozen=True):
    """The bundle's path, its id, and the options to open it with."""

    bundle: str
    id: str
    options: EngineOptions


class Opened(msgspec.Struct, frozen=True):
    """``error`` is None when the golden samples came out right."""

    error: str | None = None


def main() -> None:
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    job = msgspec.json.decode(requests.readline(), type=Job)
    try:
        inspector = _open(job)
    except EdgeAdError as error:
        answers.write(msgspec.json.encode(Opened(str(error))) + b"\n")
        return
    # An array that is filled anew for each run, as a line has it.
    batch = np.empty_like(inspector.bundle.golden[0].image)
    answers.write(msgspec.json.encode(Opened()) + b"\n")
    samples = inspector.bundle.golden
    for number, _ in enumerate(requests):
        np.copyto(batch, samples[number % len(samples)].image)
        began = time.monotonic_ns()
        inspector.engine.run(batch)
        answers.write(b"%d\n" % (time.monotonic_ns() - began))


def _open(job: Job) -> Inspector:
    bundle = open_bundle(Path(job.bundle))
    if bundle.id != job.id:
        raise BundleError(f"{job.bundle}: has changed meanwhile")
    inspector = Inspector(bundle, options=job.options)
    inspector.self_test()
    inspector.warm_up(_WARM_UP_RUNS)
    return inspector


if __name__ == "__main__":
    main()
