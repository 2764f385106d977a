"""Timing candidates against each other, each in a process of its own, in turn."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from edge_ad_runtime.bundle import Bundle
from edge_ad_runtime.engines import EngineOptions
from edge_ad_runtime.errors import EngineError
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tuning.worker import Job, Opened

# A large model takes a second for a golden sample on a small board.
_PATIENCE_S = 300.0
_POLL_S = 0.1
# Threads of the candidate before may still be busy for a moment.
_PAUSE_S = 0.01


class Stopped(Exception):
    """The measurement was asked to stop."""


class Measured(msgspec.Struct, frozen=True):
    """A candidate's nanoseconds, one for each round; none where it ``failed``, which then says why."""

    options: EngineOptions
    times_ns: tuple[int, ...] = ()
    failed: str | None = None


def measure(
    bundle: Bundle,
    candidates: Sequence[EngineOptions],
    rounds: int,
    stop: StopRequest,
    after_run: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """Run each candidate once per round, in an order that rotates, so that the machine's drift hits all alike.

    A candidate whose maps are not those of the golden samples, or that crashes, has failed and is left out of the rounds.

    Raises:
        Stopped: a stop was requested; all processes have ended.
    """
    workers: list[_Worker] = []
    with contextlib.ExitStack() as stack:
        for options in candidates:
            worker = _Worker(bundle, options, stop)
            stack.callback(worker.end)
            workers.append(worker)
            worker.open()
        for number in range(rounds):
            for place in range(len(workers)):
                worker = workers[(number + place) % len(workers)]
                if worker.failed is None:
                    time.sleep(_PAUSE_S)
                    worker.run()
                after_run()
    return [Measured(w.options, () if w.failed is not None else tuple(w.times_ns), w.failed) for w in workers]


class _Worker:
    """A candidate's process."""

    def __init__(self, bundle: Bundle, options: EngineOptions, stop: StopRequest) -> None:
        self.options = options
        self.times_ns: list[int] = []
        self.failed: str | None = None
        self._job = Job(str(bundle.path.absolute()), bundle.id, options)
        self._stop = stop
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "edge_ad_runtime.tuning.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            # A Ctrl-C is for the process that measures, which ends this one.
            start_new_session=True,
            # No module of the working folder may take another's place.
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )

    def open(self) -> None:
        """Wait until it is ready."""
        if (answer := self._ask(msgspec.json.encode(self._job))) is not None:
            self.failed = msgspec.json.decode(answer, type=Opened).error

    def run(self) -> None:
        """One run."""
        if (answer := self._ask(b"")) is not None:
            self.times_ns.append(int(answer))

    def end(self) -> None:
        """Kill it: there is nothing that it would have to finish."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _ask(self, request: bytes) -> bytes | None:
        try:
            return self._answer(request)
        except (EngineError, OSError) as error:
            self.failed = str(error)
            return None

    def _answer(self, request: bytes) -> bytes:
        ours, theirs = self._process.stdin, self._process.stdout
        assert ours is not None
        assert theirs is not None
        if self._stop.requested:
            raise Stopped
        ours.write(request + b"\n")
        answer = b""
        until = time.monotonic() + _PATIENCE_S
        while not answer.endswith(b"\n"):
            if self._stop.requested:
                raise Stopped
            if time.monotonic() > until:
                raise EngineError(f"no answer within {_PATIENCE_S:g} s")
            if select.select([theirs], [], [], _POLL_S)[0]:
                piece = os.read(theirs.fileno(), 65_536)
                if not piece:
                    raise EngineError(_end(self._process.wait()))
                answer += piece
        return answer


def _end(status: int) -> str:
    return (
        f"its process was killed by signal {-status}"
        if status < 0
        else f"its process ended with status {status}"
    )
