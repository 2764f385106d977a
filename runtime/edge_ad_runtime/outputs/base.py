"""What a reject output is, and the timing that every output shares."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import msgspec

from edge_ad_runtime.errors import InputError

MAX_PULSE_MS = 60_000.0
MAX_DELAY_MS = 600_000.0


class Timing(msgspec.Struct, frozen=True):
    """When an output is active, and what that means at its terminals.

    ``pulse_ms`` is how long a reject keeps it active. The pulse begins ``delay_ms`` after what is rejected comes before
    the ejector (without a line file: after the frame's time; 0 then means as soon as the verdict is known), and
    ``lead_ms`` earlier, the time that the ejector takes to act. Less than ``min_off_ms`` between two pulses make them
    one.

    ``safe`` is the state while nobody watches the line (the camera or the scorer is away), and after the end: ``off``
    releases the actuator, ``on`` keeps rejecting. ``auto`` keeps rejecting while nobody watches a line without a trigger
    (with one, every part is rejected by its own pulse) and releases at the end.

    ``energise`` says what current means: ``reject``, or ``accept`` for an actuator that lets parts through only while it
    is driven, so that a dead machine rejects everything.
    """

    pulse_ms: float = 50.0
    delay_ms: float = 0.0
    lead_ms: float = 0.0
    min_off_ms: float = 0.0
    safe: Literal["auto", "off", "on"] = "auto"
    energise: Literal["reject", "accept"] = "reject"

    def __post_init__(self) -> None:
        if not 0 < self.pulse_ms <= MAX_PULSE_MS:
            raise InputError(f"pulse_ms={self.pulse_ms:g}: must be above 0 and at most {MAX_PULSE_MS:g}")
        for key, value in (("delay_ms", self.delay_ms), ("lead_ms", self.lead_ms)):
            if not 0 <= value <= MAX_DELAY_MS:
                raise InputError(f"{key}={value:g}: must be 0 to {MAX_DELAY_MS:g}")
        if not 0 <= self.min_off_ms <= MAX_PULSE_MS:
            raise InputError(f"min_off_ms={self.min_off_ms:g}: must be 0 to {MAX_PULSE_MS:g}")
        if self.safe not in ("auto", "off", "on"):
            raise InputError(f"safe={self.safe}: must be 'auto', 'off' or 'on'")
        if self.energise not in ("reject", "accept"):
            raise InputError(f"energise={self.energise}: must be 'reject' or 'accept'")

    @property
    def pulse_ns(self) -> int:
        return round(self.pulse_ms * 1e6)

    @property
    def delay_ns(self) -> int:
        return round(self.delay_ms * 1e6)

    @property
    def lead_ns(self) -> int:
        return round(self.lead_ms * 1e6)

    @property
    def min_off_ns(self) -> int:
        return round(self.min_off_ms * 1e6)

    @property
    def final_level(self) -> bool:
        """Whether the output rejects when edge-ad has ended."""
        return self.safe == "on"

    def drives(self, rejecting: bool) -> bool:
        """Whether the output is driven when it rejects, or when it does not."""
        return rejecting == (self.energise == "reject")


def refuse_timer_to_accept(where: str, timing: Timing) -> None:
    """Raise InputError for a device that would let parts through again by itself."""
    if timing.energise == "accept":
        raise InputError(
            f"{where}: timer= needs energise=reject; a device's own timer would end a rejection even when nobody "
            "is there to give the next"
        )


class Output(Protocol):
    """An opened two-state actuator."""

    name: str

    def set(self, active: bool) -> None:
        """Drive it or release it.

        Raises:
            OutputError: the device is gone, does not take the command, or was closed.
        """
        ...

    def close(self) -> None:
        """Release the device without changing its state; may be called again."""
        ...


@runtime_checkable
class PulsedOutput(Output, Protocol):
    """An output whose device can time a pulse itself."""

    def pulse(self) -> None:
        """Drive it; the device releases it by itself ``pulse_ms`` later. A later :meth:`set` may or may not end that timer.

        Raises:
            OutputError: as :meth:`set`.
        """
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
