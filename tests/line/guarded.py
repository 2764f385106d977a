"""What tests of the guard process share: its configuration, its log of commands, its end."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.link import ProcessGuard
from edge_ad_runtime.guard.process import LOCK
from edge_ad_runtime.tracking.tracker import TrackSettings
from tests.line.scripted_scorer import Script

MS = 1_000_000


def track(travel_ms: float = 400, **changes: Any) -> TrackSettings:
    """Travel by time; parts 30 ms apart can be told from each other."""
    values: dict[str, Any] = {
        "travel": travel_ms * MS, "min_gap": 30 * MS, "lead_ns": 0, "reach_ns": 50 * MS, "ahead_ns": 3 * MS,
        "debounce_ns": 5 * MS, "max_in_flight": 100,
    }  # fmt: skip
    return TrackSettings(**(values | changes))


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Poll until the condition is true; returns what it was."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
    return value


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file that may still be written."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


@dataclass
class GuardedLine:
    """One line in a folder of its own, with all processes that run it."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    guards: set[int] = field(default_factory=set)
    links: list[ProcessGuard] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def output(self) -> Path:
        return self.folder / "output.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "scorer.jsonl"

    def config(self, *, pulse_ms: float = 40, outputs: tuple[str, ...] = (), **changes: Any) -> GuardConfig:
        values: dict[str, Any] = {
            "line": "line",
            "outputs": (f"mock://x?pulse_ms={pulse_ms}&log={self.output}", *outputs),
            "track": track(),
            "silence_ns": 300 * MS,
            "reject_unknown": False,
        }
        return GuardConfig(**(values | changes))

    def scorer(self, config: GuardConfig, **script: Any) -> subprocess.Popen[bytes]:
        """Start a scorer and wait until its guard guards."""
        before = len(self.said("ready"))
        path = self.folder / f"script{len(self.processes)}.json"
        values: dict[str, Any] = {
            "parts": 0,
            "period_ms": 100.0,
            "verdict_ms": 250.0,
            "linger_ms": -1.0,
        } | script
        whole = Script(config=config, state=str(self.state), log=str(self.log), **values)
        path.write_bytes(msgspec.json.encode(whole))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.line.scripted_scorer", str(path)],
            stdin=subprocess.DEVNULL,
        )
        self.processes.append(process)
        wait_until(lambda: len(self.said("ready")) > before or process.poll() is not None)
        assert process.poll() is None, "the scorer did not start"
        self.guard()
        return process

    def said(self, what: str) -> list[dict[str, Any]]:
        """The scorers' log lines of a kind."""
        return [line for line in read_lines(self.log) if line["what"] == what]

    @property
    def triggers(self) -> list[int]:
        return [line["at"] for line in self.said("trigger")]

    @property
    def settled(self) -> dict[int, dict[str, Any]]:
        return {line["message"]["part"]: line["message"] for line in self.said("Settled")}

    @property
    def commands(self) -> list[tuple[int, bool]]:
        """What the output was told, (monotonic ns, level)."""
        return [(line["t_monotonic_ns"], line["active"]) for line in read_lines(self.output)]

    @property
    def pulses(self) -> list[int]:
        """When the output began to be active."""
        commands = self.commands
        return [t for (_, was), (t, now) in itertools.pairwise(commands) if now and not was]

    def guard(self) -> int:
        """The guard's process."""
        pid = int((self.state / "lines" / "line" / LOCK).read_text(encoding="ascii").split()[0])
        self.guards.add(pid)
        return pid

    def close(self) -> None:
        """End everything; what a test leaves behind is a fault of the test only if it cannot be ended."""
        for process in self.processes:
            process.kill()
            process.wait()
        for link in self.links:
            link.abandon()
        for connection in self.connections:
            connection.close()
        with contextlib.suppress(OSError, ValueError):
            self.guard()
        for pid in self.guards:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in self.guards))
