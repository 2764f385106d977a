"""A scorer without a camera or an engine, as a process: ``python -m tests.line.scripted_scorer SCRIPT``.

It triggers parts itself, at even distances, and gives each the verdict ``pass`` a while later, as a real one does after its
frame and its engine. All that it does and hears is appended to a log, line by line, so that a test that kills it knows.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.link import ProcessGuard
from edge_ad_runtime.guard.messages import Alive, FrameVerdict, FromGuard, PartSeen, PartVerdict, SoftTrigger
from edge_ad_runtime.verdict import Fault, Verdict

_ROUND_S = 0.005


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """``parts`` are triggered ``period_ms`` apart (without ``track``: frames are judged), and pass ``verdict_ms`` after
    their trigger. Part ``engine_fault`` gets a fault with ``detail`` instead. ``linger_ms`` later the guard is told to
    finish, unless that is negative: then the scorer goes on until it is ended. ``guard_env`` is added to the guard's
    environment."""

    config: GuardConfig
    state: str
    log: str
    parts: int
    period_ms: float
    verdict_ms: float
    engine_fault: int = 0
    guard_env: dict[str, str] = {}
    linger_ms: float = 0.0


class Scorer:
    def __init__(self, script: Script) -> None:
        self._script = script
        self._handle = os.open(script.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._due: list[tuple[int, PartSeen]] = []
        self._lock = threading.Lock()
        self._stopped = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGHUP, self._stop)
        os.environ.update(script.guard_env)
        self._link = ProcessGuard(script.config, Path(script.state))
        self._write("ready", realtime=self._link.realtime, taken_over=self._link.taken_over, pid=os.getpid())
        self._link.listen(self._hear)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopped = True

    def _write(self, what: str, **values: Any) -> None:
        line = msgspec.json.encode({"what": what, "t": time.monotonic_ns(), **values}) + b"\n"
        os.write(self._handle, line)

    def _hear(self, message: FromGuard) -> None:
        if isinstance(message, PartSeen):
            with self._lock:
                self._due.append((message.t_trigger_ns + round(self._script.verdict_ms * 1e6), message))
        self._write(type(message).__name__, message=msgspec.to_builtins(message))

    def _give_verdicts(self) -> None:
        now = time.monotonic_ns()
        with self._lock:
            ready = [seen for t, seen in self._due if t <= now]
            self._due = [(t, seen) for t, seen in self._due if t > now]
        for seen in ready:
            part, at = seen.part, seen.t_trigger_ns
            if part == self._script.engine_fault:
                # Longer than a packet, and not all of it Unicode.
                detail = "the engine failed: \udcff" + "x" * 200_000
                went = self._link.tell(PartVerdict(part, at, Verdict.FAULT, Fault.ENGINE, detail))
            else:
                went = self._link.tell(PartVerdict(part, at, Verdict.PASS))
            self._write("verdict", part=part, went=went)

    def run(self) -> None:
        script = self._script
        tracked = script.config.track is not None
        made, begin = 0, time.monotonic_ns() + 50_000_000
        end: int | None = None
        while not self._stopped and (end is None or time.monotonic_ns() < end):
            now = time.monotonic_ns()
            self._link.tell(Alive(made, True))
            if made < script.parts and now >= begin + made * round(script.period_ms * 1e6):
                made += 1
                if tracked:
                    self._link.tell(SoftTrigger(now))
                else:
                    self._link.tell(FrameVerdict(now, Verdict.PASS))
                self._write("trigger", at=now)
                if made == script.parts and script.linger_ms >= 0:
                    end = now + round(script.linger_ms * 1e6)
            self._give_verdicts()
            time.sleep(_ROUND_S)
        report = self._link.finish(2.0)
        self._write("finished", restarts=self._link.restarts, report=msgspec.to_builtins(report))


def main() -> None:
    script = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Script)
    Scorer(script).run()


if __name__ == "__main__":
    main()
