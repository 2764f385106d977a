"""What a reject output is, and the timing that every output shares."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from edge_ad_runtime.errors import InputError

MAX_PULSE_MS = 60_000.0
MAX_DELAY_MS = 600_000.0


class Timing(msgspec.Struct, frozen=True):
    """When an output is active.

    ``pulse_ms`` is how long a reject keeps it active; ``delay_ms`` how long after the frame's time the pulse
    begins (the way from the camera to the ejector), 0 meaning as soon as the verdict is known. ``safe`` is
    the state in which the output is left at stop and crash, and kept while the camera is away: ``off``
    releases the actuator, ``on`` keeps rejecting.
    """

    pulse_ms: float = 50.0
    delay_ms: float = 0.0
    safe: Literal["off", "on"] = "off"

    def __post_init__(self) -> None:
        if not 0 < self.pulse_ms <= MAX_PULSE_MS:
            raise InputError(f"pulse_ms={self.pulse_ms:g}: must be above 0 and at most {MAX_PULSE_MS:g}")
        if not 0 <= self.delay_ms <= MAX_DELAY_MS:
            raise InputError(f"delay_ms={self.delay_ms:g}: must be 0 to {MAX_DELAY_MS:g}")
        if self.safe not in ("off", "on"):
            raise InputError(f"safe={self.safe}: must be 'off' or 'on'")

    @property
    def pulse_ns(self) -> int:
        return round(self.pulse_ms * 1e6)

    @property
    def delay_ns(self) -> int:
        return round(self.delay_ms * 1e6)

    @property
    def safe_level(self) -> bool:
        return self.safe == "on"


class Output(Protocol):
    """An opened two-state actuator."""

    name: str

    def set(self, active: bool) -> None:
        """Make it active (rejecting) or inactive.

        Raises:
            OutputError: the device is gone, does not take the command, or was closed.
        """
        ...

    def close(self) -> None:
        """Release the device without changing its state; may be called again."""
        ...


class OutputConfig(Protocol):
    """A parsed output URL: knows how to open its output, as often as needed."""

    @property
    def name(self) -> str: ...

    @property
    def timing(self) -> Timing: ...

    def open(self) -> Output:
        """Open the output; its state is not commanded yet.

        Raises:
            OutputError: the device is missing, busy or not permitted.
            MissingExtra: its package is not installed.
        """
        ...
