"""A pretended output that records what it is told: ``mock://name?fail=3,5-7&slow_ms=200&log=/tmp/relay.jsonl``.

``timer=1`` pretends a device that times pulses itself.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote

from edge_ad_runtime.clock import Clock, MonotonicClock
from edge_ad_runtime.errors import InputError, OutputError
from edge_ad_runtime.outputs.base import Timing, refuse_timer_to_accept
from edge_ad_runtime.outputs.query import TIMING_KEYS, Query


@dataclass
class MockDevice:
    """What stays when the output is reopened: ``history`` of (monotonic ns, state), and the commands so far.

    A command that fails is counted but not in the history. ``pulses`` are the indices of those in the history that
    started a pulse which the device ends by itself.
    """

    clock: Clock = field(default_factory=MonotonicClock)
    history: list[tuple[int, bool]] = field(default_factory=list)
    pulses: list[int] = field(default_factory=list)
    commands: int = 0
    opened: int = 0


@dataclass(frozen=True)
class MockConfig:
    """``fail`` are the numbers (from 0) of the commands that fail, ``absent`` of the openings that fail;
    ``slow_ms`` is the real time that each command takes. ``log`` is a file that gets a JSON line for each command,
    ``{"t_monotonic_ns": …, "active": …}``, for the output of another process."""

    label: str
    timing: Timing = field(default_factory=Timing)
    fail: frozenset[int] = frozenset()
    absent: frozenset[int] = frozenset()
    slow_ms: float = 0.0
    log: Path | None = None
    timer: bool = False
    device: MockDevice = field(default_factory=MockDevice, compare=False)

    @property
    def name(self) -> str:
        return f"mock://{self.label}"

    @property
    def physical_key(self) -> str:
        return self.name

    def open(self) -> MockOutput:
        return TimedMockOutput(self) if self.timer else MockOutput(self)


def parse_mock(where: str, parts: SplitResult) -> MockConfig:
    """The configuration that a ``mock:`` URL describes.

    Raises:
        InputError: a key or a value is unknown or out of range.
    """
    query = Query(parts.query, where, ("fail", "absent", "slow_ms", "log", "timer", *TIMING_KEYS))
    slow_ms = query.number("slow_ms", 0.0)
    if not 0 <= slow_ms <= 60_000:
        raise InputError(f"{where}: slow_ms={slow_ms:g} must be 0 to 60000")
    log = query.text("log", "")
    timing, timer = query.timing(), query.flag("timer")
    if timer:
        refuse_timer_to_accept(where, timing)
    return MockConfig(
        label=unquote(f"{parts.netloc}{parts.path}") or "output",
        timing=timing,
        fail=query.integers("fail"),
        absent=query.integers("absent"),
        slow_ms=slow_ms,
        log=Path(log) if log else None,
        timer=timer,
    )


class MockOutput:
    """Keeps the same rules as a real output, and fails where its configuration says so."""

    def __init__(self, config: MockConfig) -> None:
        self.name = config.name
        self._config = config
        self._closed = False
        device = config.device
        device.opened += 1
        if device.opened - 1 in config.absent:
            raise OutputError(f"{self.name}: cannot be opened (as asked)")

    def set(self, active: bool) -> None:
        if self._closed:
            raise OutputError(f"{self.name}: is closed")
        config, device = self._config, self._config.device
        if config.slow_ms:
            time.sleep(config.slow_ms / 1e3)
        device.commands += 1
        if device.commands - 1 in config.fail:
            raise OutputError(f"{self.name}: does not take the command (as asked)")
        now = device.clock.now_ns()
        device.history.append((now, active))
        if config.log is not None:
            line = json.dumps({"t_monotonic_ns": now, "active": active})
            with config.log.open("a", encoding="ascii") as log:
                log.write(line + "\n")

    def close(self) -> None:
        self._closed = True


class TimedMockOutput(MockOutput):
    """One with a timer; the end of a pulse is not in the history, since nobody commands it."""

    def pulse(self) -> None:
        self.set(True)
        device = self._config.device
        device.pulses.append(len(device.history) - 1)
