"""Records for the tests of sinks, and waiting for what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from edge_ad_runtime.events import PartEvent


def record(part: int = 1, verdict: Literal["pass", "reject", "fault"] = "pass") -> PartEvent:
    return PartEvent(
        part=part,
        source="a.png",
        score=None if verdict == "fault" else 0.5,
        threshold=1.0,
        verdict=verdict,
        latency_ms=1.0,
        t_monotonic_ns=1,
        time="2026-01-02T03:04:05.678+00:00",
        fault="the camera is away" if verdict == "fault" else None,
    )


def wait_until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for: {what}"
        time.sleep(0.01)
