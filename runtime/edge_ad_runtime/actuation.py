"""Reject pulses at the right time: one worker thread for each output, deadlines by the monotonic clock.

A reject of a frame taken at ``t`` makes the output active at ``t + delay_ms`` and inactive ``pulse_ms``
later; pulses that overlap or touch become one. The level is commanded once at the start (a relay keeps its
state when a program dies, so it is unknown then), at each change, and once more at the end.

A stop, an error of the program and the normal end of the interpreter leave the output in its safe state. A
process killed by SIGKILL, by a crash of native code or by a power cut can do nothing any more: a relay then
stays as it is and a GPIO line may return to its default. Where that is dangerous, the actuator needs a
hardware timeout or an interlock.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edge_ad_runtime.clock import Clock, MonotonicClock
from edge_ad_runtime.errors import EdgeAdError, OutputError
from edge_ad_runtime.outputs.base import Output, OutputConfig

_log = logging.getLogger(__name__)

FIRST_RETRY_NS = 50_000_000
LAST_RETRY_NS = 2_000_000_000
# How long close() waits for a command that is under way; a serial port gives up after 0.5 s.
CLOSE_PATIENCE_S = 5.0


class ActuatorStats(msgspec.Struct, frozen=True):
    """Counts since the start.

    ``pulses`` were asked for; ``late`` of them began after their time, ``missed`` of them could not be given
    because the output was out of order, ``cancelled`` of them had not begun at the end. ``errors`` are failed
    commands and openings.
    """

    name: str
    pulses: int
    late: int
    missed: int
    cancelled: int
    errors: int


@dataclass
class _Pulse:
    on_ns: int
    late: bool


class Actuator:
    """Drives one output from its own thread; no method waits for the device except :meth:`close`."""

    def __init__(self, config: OutputConfig, clock: Clock | None = None) -> None:
        """Open the output and bring it into its safe state, where it stays until :meth:`release`.

        Raises:
            OutputError, MissingExtra: see :meth:`OutputConfig.open`.
        """
        self.name = config.name
        self._config = config
        self._timing = config.timing
        self._clock = clock or MonotonicClock()
        self._wakeup = threading.Condition()
        self._pulses: deque[_Pulse] = deque()
        self._active_until: int | None = None
        self._unserved = 0
        self._held = True
        self._closing = False
        self._finished = False
        self._failure: OutputError | None = None
        self._level: bool | None = None
        self._retry_at: int | None = None
        self._backoff = FIRST_RETRY_NS
        self._count = {"pulses": 0, "late": 0, "missed": 0, "cancelled": 0, "errors": 0}
        self._output: Output | None = config.open()
        self._thread = threading.Thread(target=self._run, name=f"actuator {self.name}", daemon=True)
        with self._wakeup:
            self._clock.wake(self._wakeup)
        self._thread.start()
        # A daemon thread still runs while these are called, an ordinary one would have to end before.
        atexit.register(self._close_at_exit)

    def pulse(self, t_ns: int) -> None:
        """Reject the part whose frame was taken at ``t_ns``.

        A pulse whose beginning has already passed is given at once, in full length, and counted as late;
        with ``delay_ms`` 0 that is its normal time.
        """
        timing = self._timing
        with self._wakeup:
            if self._closing:
                return
            on, now = t_ns + timing.delay_ns, self._clock.now_ns()
            late = on < now and timing.delay_ns > 0
            self._count["pulses"] += 1
            self._count["late"] += late
            pulse = _Pulse(max(on, now), late)
            # Verdicts come in the order of the frames, so this is almost always the end.
            at = len(self._pulses)
            while at and self._pulses[at - 1].on_ns > pulse.on_ns:
                at -= 1
            self._pulses.insert(at, pulse)
            self._clock.wake(self._wakeup)

    def hold_safe(self) -> None:
        """Keep the output in its safe state (the camera is away). Pulses under way are still given."""
        self._set_held(True)

    def release(self) -> None:
        """End :meth:`hold_safe`: the output rests inactive between pulses."""
        self._set_held(False)

    def _set_held(self, held: bool) -> None:
        with self._wakeup:
            if self._held != held:
                self._held = held
                self._clock.wake(self._wakeup)

    @property
    def busy(self) -> bool:
        """Whether pulses are waiting or under way."""
        with self._wakeup:
            return not self._finished and (bool(self._pulses) or self._active_until is not None)

    @property
    def stats(self) -> ActuatorStats:
        with self._wakeup:
            return ActuatorStats(name=self.name, **self._count)

    def close(self) -> None:
        """Drop the pulses that have not begun, bring the output into its safe state and release it.

        Raises:
            OutputError: the output could not be brought into its safe state.
        """
        with self._wakeup:
            if not self._closing:
                self._closing = True
                self._clock.wake(self._wakeup)
        self._thread.join(CLOSE_PATIENCE_S)
        if self._thread.is_alive():
            raise OutputError(
                f"{self.name}: is stuck in a command; its safe state ({self._timing.safe}) is not certain"
            )
        atexit.unregister(self._close_at_exit)
        if self._failure is not None:
            raise self._failure

    def _close_at_exit(self) -> None:
        try:
            self.close()
        except OutputError as error:
            _log.error("%s", error)

    def _run(self) -> None:
        try:
            with self._wakeup:
                while not self._closing:
                    self._step()
        finally:
            self._finish()
            self._clock.leave(self._wakeup)

    def _step(self) -> None:
        """Do what is due, or wait for it; the lock is held, but not while the device is commanded."""
        now = self._clock.now_ns()
        self._begin_due_pulses(now)
        self._end_passed_pulse(now)
        wanted = self._active_until is not None or (self._held and self._timing.safe_level)
        may_try = self._retry_at is None or now >= self._retry_at
        if wanted != self._level and may_try:
            self._wakeup.release()
            try:
                failure = self._command(wanted)
            finally:
                self._wakeup.acquire()
            self._note(wanted, failure)
            return
        edges = [self._pulses[0].on_ns] if self._pulses else []
        edges += [t for t in (self._active_until, self._retry_at) if t is not None]
        self._clock.wait(self._wakeup, min(edges, default=None))

    def _begin_due_pulses(self, now: int) -> None:
        while self._pulses and self._pulses[0].on_ns <= now:
            pulse = self._pulses.popleft()
            off = pulse.on_ns + self._timing.pulse_ns
            if off <= now:
                # The device was slow with an earlier command; the pulse is given late rather than not at all.
                self._count["late"] += not pulse.late
                off = now + self._timing.pulse_ns
            self._active_until = max(self._active_until or off, off)
            if self._level is not True:
                self._unserved += 1

    def _end_passed_pulse(self, now: int) -> None:
        if self._active_until is not None and self._active_until <= now:
            self._active_until = None
            self._count["missed"] += self._unserved
            self._unserved = 0

    def _command(self, level: bool) -> EdgeAdError | None:
        """Set the level, opening the output first where needed; what went wrong is returned."""
        try:
            if self._output is None:
                self._output = self._config.open()
            self._output.set(level)
        except EdgeAdError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the actuator goes on
            return OutputError(f"{self.name}: {type(error).__name__}: {error}")
        return None

    def _note(self, level: bool, failure: EdgeAdError | None) -> None:
        if failure is None:
            if self._retry_at is not None:
                _log.warning("%s: works again", self.name)
            self._level, self._retry_at, self._backoff = level, None, FIRST_RETRY_NS
            if level:
                self._unserved = 0
            return
        self._count["errors"] += 1
        self._drop_output()
        # After a failed command the state is unknown, so whatever is wanted is commanded anew.
        self._level = None
        if self._retry_at is None:
            _log.warning("%s (is reopened until it works)", failure)
            # The first attempt follows at once: a board that was plugged in again costs no pulse.
            self._retry_at = self._clock.now_ns()
        else:
            self._retry_at = self._clock.now_ns() + self._backoff
            self._backoff = min(2 * self._backoff, LAST_RETRY_NS)

    def _drop_output(self) -> None:
        output, self._output = self._output, None
        if output is not None:
            try:
                output.close()
            except Exception as error:  # noqa: BLE001 - it is given up anyway
                _log.debug("%s: %s", self.name, error)

    def _finish(self) -> None:
        safe = self._timing.safe_level
        failure = self._command(safe)
        if failure is not None:
            self._drop_output()
            failure = self._command(safe)
        self._drop_output()
        with self._wakeup:
            self._count["cancelled"] += len(self._pulses)
            self._count["missed"] += self._unserved
            self._pulses.clear()
            self._active_until = None
            self._closing = self._finished = True
            if failure is not None:
                self._count["errors"] += 1
                self._failure = OutputError(
                    f"{failure}: its safe state ({self._timing.safe}) could not be commanded; check it by hand"
                )


def open_actuators(configs: Sequence[OutputConfig], clock: Clock | None = None) -> list[Actuator]:
    """Open all outputs, or none of them.

    Raises:
        OutputError, MissingExtra: an output cannot be opened; those opened before are closed again.
    """
    opened: list[Actuator] = []
    try:
        opened.extend(Actuator(config, clock) for config in configs)
    except BaseException:
        for actuator in opened:
            actuator._close_at_exit()
        raise
    return opened
